"""Notes on other runtimes: on the plans that they are about, on no others, and wherever a user meets a plan.

That they are true is what `make compat` measures.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

import kept
from kept.ir import spec as ir
from kept.output.runtimes import LLAMA_CPP, RUNTIMES, TRANSFORMERS_4, notes
from kept.passes.plan import Plan
from support.models import write_checkpoint
from support.pass_helpers import MIXER, layer_spec, unread
from support.stored import read_json
from support.tiny import TINY

if TYPE_CHECKING:
    from pathlib import Path

THETA = 100.0

SCALED = {
    "none": None,
    "linear": ir.Linear(2.0),
    "dynamic": ir.Dynamic(2.0, 40),
    "llama3": ir.Llama3(4.0, 1.0, 4.0, 8),
    "yarn": ir.Yarn(4.0, 8),
    "longrope": ir.LongRope((1.0,) * 4, (2.0,) * 4, 8, 2.0),
    "proportional": ir.Proportional(),
    "proportional, linear": ir.Proportional(2.0),
}

REFUSED: dict[str, set[str]] = {
    "yarn": {"transformers 4.45"},
    "longrope": {"transformers 4.45", *LLAMA_CPP},
    "proportional": {*TRANSFORMERS_4, *LLAMA_CPP},
    "proportional, linear": {*TRANSFORMERS_4, *LLAMA_CPP},
}


def runtimes(plan: Plan) -> set[str]:
    found = [runtime for note in notes(plan) for runtime in note.runtimes]
    assert len(found) == len(set(found)), "one note a runtime and form"
    assert set(found) <= set(RUNTIMES)
    return set(found)


def test_our_own_class_says_what_runs_it(tmp_path: Path) -> None:
    """In the plan, in the record and on the card, with the lines that load it."""
    source = write_checkpoint(tmp_path / "llama", "llama")
    said = [str(note) for note in notes(kept.plan(source, to="kept"))]
    assert said == [
        "transformers: runs it by the code in the output; it takes trust_remote_code=True, or import kept first",
        "transformers 4.45: its cache classes are older than that code; 4.57 takes it as it is",
        "vLLM, llama.cpp: has no class for it; it takes the outputs for stock families (--to)",
    ]
    out = kept.convert(source, tmp_path / "out", to="kept", verify_tokens=0).path
    assert read_json(out / "kept.json")["runtimes"] == said
    card = (out / "README.md").read_text(encoding="utf-8")
    assert 'from_pretrained("path/to/this/directory", trust_remote_code=True)' in card
    assert "trust_remote_code=False" not in card
    page = kept.report(out, tmp_path / "page.html").path.read_text(encoding="utf-8")
    assert "import kept" in page
    assert "vllm serve" not in page


@pytest.mark.parametrize("name", SCALED)
def test_rotations(name: str) -> None:
    dims = 4 if isinstance(SCALED[name], ir.Proportional) else 8
    spec = layer_spec(replace(MIXER, rope=ir.Rope(THETA, dims, scaling=SCALED[name])))
    assert runtimes(Plan((), unread(spec))) == REFUSED.get(name, set())


def test_a_form_is_named_where_there_is_one(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "stablelm")
    proportional = kept.plan(source, rope="proportional", final_bias="drop")
    assert {note.form for note in notes(proportional)} == {"it takes --rope llama3"}
    assert not notes(kept.plan(source, rope="llama3", final_bias="drop"))


def test_activations(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "gelu", "llama", hidden_act="gelu")
    assert runtimes(kept.plan(source)) == set(LLAMA_CPP)
    assert not notes(kept.plan(write_checkpoint(tmp_path / "silu", "llama")))


@pytest.mark.parametrize(("options", "wanted"), [({}, {"llama.cpp f16"}), ({"final_bias": "drop"}, set())])
def test_the_tail(tmp_path: Path, options: dict[str, Any], wanted: set[str]) -> None:
    assert runtimes(kept.plan(write_checkpoint(tmp_path, "orion"), **options)) == wanted


WINDOWED = {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1}


@pytest.mark.parametrize(
    ("family", "config", "options", "wanted"),
    [
        ("mistral", WINDOWED, {"to": "mistral"}, {*LLAMA_CPP}),
        ("mistral", WINDOWED, {"to": "mistral", "context": 16}, set()),
        ("qwen2", WINDOWED, {"to": "qwen2"}, {"transformers 4.45", *LLAMA_CPP}),
        ("qwen2", {}, {"to": "qwen2"}, set()),
        ("gpt_neox", {}, {"to": "gpt_neox"}, {*LLAMA_CPP}),
    ],
)
def test_other_targets(
    tmp_path: Path, family: str, config: dict[str, Any], options: dict[str, Any], wanted: set[str]
) -> None:
    assert runtimes(kept.plan(write_checkpoint(tmp_path, family, **config), **options)) == wanted


def test_the_model_card_states_it(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", "orion")
    ways: tuple[tuple[Any, bool], ...] = (("block", True), ("drop", False))
    for way, said in ways:
        out = kept.convert(source, tmp_path / way, final_bias=way, verify_tokens=0).path
        card = (out / "README.md").read_text(encoding="utf-8")
        assert ("- llama.cpp f16: float16 cannot hold the tail's constants; it takes bf16" in card) is said
        assert ("Limited support:" in card) is said


def test_a_rotation_of_whole_heads_by_threshold_is_read_back(tmp_path: Path) -> None:
    """Return the config of the default form, with the keys of transformers 4 and 5."""
    source = write_checkpoint(tmp_path / "source", "stablelm")
    out = kept.convert(source, tmp_path / "out", final_bias="drop", verify_tokens=0).path
    config = read_json(out / "config.json")
    assert config["rope_scaling"]["rope_type"] == config["rope_parameters"]["rope_type"] == "llama3"
    assert config["rope_theta"] == pytest.approx(TINY["stablelm"]["rope_theta"] ** 4)
    assert notes(kept.plan(out)) == ()
