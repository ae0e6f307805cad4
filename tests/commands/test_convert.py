"""Conversions from end to end: what is written, what is measured, what is refused, and what survives a kill."""

from __future__ import annotations

import random
import shutil
import signal
import time
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

import kept
from kept.checkpoint.byte_stream import digest
from kept.checkpoint.staging import JOURNAL, Staging
from kept.errors import CheckpointError, InputError, OutputError, PromiseError, RecipeError, Refusal
from kept.ir.promise import Promise
from kept.ir.slots import slots
from kept.ir.tensors import DTYPE_BYTES
from kept.output import export, input_files, write_files
from kept.passes.centre import Centre
from kept.passes.fold_norm_bias import FoldNormBias
from kept.recipe import Recipe
from kept.verification.calibration import calibrate
from kept.verification.text import SAMPLE, sample
from support.forks import forks
from support.logits import logits, program_of, some_tokens, stock_logits, worst
from support.models import write_checkpoint
from support.orion_formulas import reference_orion
from support.stored import (
    PROSE,
    all_bytes,
    change_json,
    read_json,
    split_into_shards,
    tensors_of,
    write_readable,
    write_sentencepiece,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kept.commands.convert import Conversion
    from kept.ir.program import Program
    from kept.ir.spec import Spec

TOKENS = some_tokens()

LEGAL: Mapping[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {},
    "orion": {},
    "qwen2": {},
    "stablelm": {},
    "starcoder2": {"sliding_window": None},
}
"""Every family that becomes a Llama, and what its config must say for that."""


@pytest.fixture
def orion(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "orion", "orion")


def hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}.kept-partial")


# -------------------------------------------------------------------------------------------------------- every family


@pytest.mark.parametrize("family", LEGAL)
def test_every_family_becomes_a_llama_that_computes_the_same(tmp_path: Path, family: str) -> None:
    source = write_checkpoint(tmp_path / family, family, **LEGAL[family])
    done = kept.convert(source, tmp_path / "out")
    assert done.plan.promise is Promise.EXACT
    assert done.verification is not None
    assert done.verification.failure is None
    assert read_json(done.path / "config.json")["model_type"] == "llama"
    wanted = logits(program_of(source), TOKENS)
    assert worst(stock_logits(done.path, TOKENS), wanted) < 1e-4
    assert worst(logits(program_of(done.path), TOKENS), wanted) < 1e-4


def test_in_float64_it_is_the_source_s_own_formula(orion: Path, tmp_path: Path) -> None:
    done = kept.convert(orion, tmp_path / "out", dtype="float64")
    wanted = reference_orion(orion, TOKENS)
    assert worst(logits(program_of(done.path), TOKENS), wanted) < 1e-9


@pytest.mark.parametrize("family", LEGAL)
def test_what_was_written_is_what_was_planned(tmp_path: Path, family: str) -> None:
    source = write_checkpoint(tmp_path / family, family, **LEGAL[family])
    done = kept.convert(source, tmp_path / "out", verify_tokens=0)
    written = program_of(done.path)
    assert written.spec == _on_disk(done.plan.program.spec)
    for name, planned in done.plan.program.weights.items():
        assert torch.equal(written.weights[name].read(), planned.read()), name


def _on_disk(spec: Spec) -> Spec:
    """A spec as it is read back: no format records that a stream is centred."""
    from dataclasses import replace

    return replace(spec, centred=False)


def test_a_program_that_the_target_cannot_hold_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "gpt2", "gpt2")
    with pytest.raises(Refusal, match="positions are learned"):
        kept.convert(source, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["gpt2"]


# ---------------------------------------------------------------------------------------------------------- the files


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_readable(tmp_path_factory.mktemp("sources") / "my-orion", "orion")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, readable: Path) -> Conversion:
    return kept.convert(readable, tmp_path_factory.mktemp("made") / "out", verify_tokens=128)


def test_the_files_of_an_output(done: Conversion) -> None:
    assert {file.name for file in done.path.iterdir()} == {
        "README.md",
        "config.json",
        "generation_config.json",
        "kept.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert {file.name for file in done.path.parent.iterdir()} == {"out"}


def test_the_config_says_the_same_to_old_and_new_transformers(done: Conversion) -> None:
    config = read_json(done.path / "config.json")
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"] == 1000.0
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert config["attention_bias"] is config["mlp_bias"] is True
    assert config["num_hidden_layers"] == 4


def test_a_scaled_rotation_is_stated_in_both_forms(tmp_path: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    source = write_checkpoint(tmp_path / "orion", "orion", rope_scaling=scaling)
    config = read_json(kept.convert(source, tmp_path / "out", verify_tokens=64).path / "config.json")
    assert config["rope_theta"] == 1000.0
    assert config["rope_scaling"] == {"type": "linear", "factor": 2.0}
    assert config["rope_parameters"] == {"rope_theta": 1000.0, **scaling}


def test_the_record_names_source_and_recipe(done: Conversion, readable: Path) -> None:
    record = read_json(done.path / "kept.json")
    assert record == done.record
    assert record["kept"] == version("kept")
    assert record["source"]["name"] == "my-orion"
    assert record["source"]["family"] == "orion"
    choices = {"to": "llama", "norm": "exact", "final_bias": "block", "rope": "llama3"}
    assert record["recipe"] == {**choices, "verify_tokens": 128}
    assert record["promise"] == "exact"
    assert str(readable.parent) not in (done.path / "kept.json").read_text(encoding="utf-8")


def test_the_record_has_the_hash_of_every_file(done: Conversion, readable: Path) -> None:
    record = read_json(done.path / "kept.json")
    others = {file.name: digest(file) for file in done.path.iterdir() if file.name != "kept.json"}
    assert record["files"] == others
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    assert record["source"]["files"] == {name: digest(readable / name) for name in names}


def test_the_record_has_every_pass_with_promise_and_cost(done: Conversion) -> None:
    record = read_json(done.path / "kept.json")
    assert [(step["name"], step["promise"], step["layers"]) for step in record["passes"]] == [
        ("centre", "exact", 0),
        ("layernorm-to-rmsnorm", "exact", 0),
        ("fold-norm-bias", "exact", 0),
        ("affine-tail", "exact", 1),
        ("fill-biases", "exact", 0),
    ]
    assert record["passes"][1]["options"] == {"mode": "exact"}
    assert record["passes"][-1]["options"] == {"biases": ["attention.o", "dense.down"]}


def test_the_record_names_what_is_new(done: Conversion, readable: Path) -> None:
    record = read_json(done.path / "kept.json")
    assert record["new_layers"] == [3]
    before, after = slots(program_of(readable).spec), slots(program_of(done.path).spec)
    assert set(record["new_parameters"]) == after.keys() - before.keys()
    assert "layers.0.mixer.q.bias" in record["new_parameters"]
    grown = sum(step["parameters"] for step in record["passes"])
    assert grown == program_of(done.path).parameters - program_of(readable).parameters


def test_the_verification_is_in_the_record(done: Conversion) -> None:
    found, record = done.verification, read_json(done.path / "kept.json")["verification"]
    assert found is not None
    assert found.proof is not None
    assert (record["kept"], record["failure"], record["promise"]) == (True, None, "exact")
    assert record["proof"]["max_logit_error"] == found.proof.max_logit_error
    assert record["output"]["tokens"] == found.output.tokens == 128
    assert record["output"]["kl"] == found.output.kl
    assert record["floor"]["mean_logit_error"] == found.floor.mean_logit_error
    assert len(record["output"]["layers"]) == 4
    assert [pair["prompt"] for pair in record["continuations"]] == [pair.prompt for pair in found.continuations]


def test_the_verification_is_in_the_card(done: Conversion) -> None:
    found, card = done.verification, (done.path / "README.md").read_text(encoding="utf-8")
    assert found is not None
    assert "Promise exact: kept." in card
    assert f"| this checkpoint, in float32 | {found.output.max_logit_error:.2g} |" in card
    assert f"| {100 * found.output.top1:.2f} % |" in card
    assert f"{found.output.perplexity_reference:.4f} before" in card
    assert "-0" not in card.split("| run |")[1].split("Perplexity")[0].replace("e-0", ""), "a KL is not negative"


def test_without_verification_there_is_none(orion: Path, tmp_path: Path) -> None:
    done = kept.convert(orion, tmp_path / "out", verify_tokens=0)
    assert done.verification is None
    assert read_json(done.path / "kept.json")["verification"] is None
    assert "Nothing: verification was left out." in (done.path / "README.md").read_text(encoding="utf-8")


def test_a_source_s_tokenizer_model_becomes_a_fast_tokenizer(tmp_path: Path) -> None:
    source = write_sentencepiece(write_checkpoint(tmp_path / "orion", "orion", vocab_size=320))
    done = kept.convert(source, tmp_path / "out", verify_tokens=64)
    assert done.verification is not None
    assert done.verification.text == SAMPLE
    assert (done.path / "tokenizer.json").is_file()
    assert all(pair.source == pair.output for pair in done.verification.continuations)


# ------------------------------------------------------------------------------------------------------------ options


@pytest.mark.parametrize("mode", ["opm", "opm-centred"])
def test_lossy_starts_are_measured_and_written(orion: Path, tmp_path: Path, mode: Any) -> None:
    done = kept.convert(orion, tmp_path / "out", norm=mode)
    assert done.plan.promise is Promise.LOSSY
    assert done.verification is not None
    assert done.verification.failure is None
    assert done.verification.output.kl > 0.01
    config = read_json(done.path / "config.json")
    assert (config["attention_bias"], config["mlp_bias"], config["num_hidden_layers"]) == (False, False, 3)
    assert worst(stock_logits(done.path, TOKENS), logits(program_of(orion), TOKENS)) > 0.1


def test_calibrated_gains_are_measured_on_the_text(readable: Path, tmp_path: Path) -> None:
    text = tmp_path / "my.txt"
    text.write_text(PROSE, encoding="utf-8")
    done = kept.convert(readable, tmp_path / "out", norm="calibrated", text=str(text), verify_tokens=64)
    source = program_of(readable)
    gains = calibrate(source, sample(readable, 320, 128, 4096, text).tokens_BT)
    for name, found in gains.items():
        written = program_of(done.path).weights[f"{name}.gain"].value("float64")
        torch.testing.assert_close(written, found.gain, rtol=1e-6, atol=1e-6)
    assert done.verification is not None
    assert done.verification.text == str(text)


def test_calibration_measures_what_the_recipe_s_own_passes_made(readable: Path, tmp_path: Path) -> None:
    text = tmp_path / "my.txt"
    text.write_text(PROSE, encoding="utf-8")
    options: dict[str, Any] = {"norm": "calibrated", "text": str(text), "passes": [{"name": "centre"}]}
    done = kept.convert(readable, tmp_path / "out", verify_tokens=0, **options)
    gains = calibrate(Centre()(program_of(readable)), sample(readable, 320, 128, 4096, text).tokens_BT)
    written = program_of(done.path).weights["layers.1.mixer_norm.gain"].value("float64")
    torch.testing.assert_close(written, gains["layers.1.mixer_norm"].gain, rtol=1e-6, atol=1e-6)


def test_calibration_needs_text(readable: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="norm calibrated: needs text to measure on; give --text FILE"):
        kept.convert(readable, tmp_path / "out", norm="calibrated")


@pytest.mark.parametrize(
    ("dtype", "promise"), [("float32", "exact"), ("float64", "exact"), ("bfloat16", "approximate")]
)
def test_dtypes(orion: Path, tmp_path: Path, dtype: str, promise: str) -> None:
    done = kept.convert(orion, tmp_path / "out", dtype=dtype)
    assert done.plan.promise == promise
    assert {str(tensor.dtype)[6:] for tensor in tensors_of(done.path).values()} == {dtype}
    assert read_json(done.path / "config.json")["torch_dtype"] == dtype


def test_a_half_precision_source_in_single_precision_loses_nothing(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "orion", "orion", dtype=torch.bfloat16)
    done = kept.convert(source, tmp_path / "out", dtype="float32")
    assert done.plan.promise is Promise.EXACT
    assert worst(logits(program_of(done.path), TOKENS), logits(program_of(source), TOKENS)) < 1e-4


def test_a_half_precision_source_stays_one(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "orion", "orion", dtype=torch.bfloat16)
    done = kept.convert(source, tmp_path / "out")
    assert done.plan.program.dtype == "BF16"
    assert done.verification is not None
    assert done.verification.failure is None


@pytest.fixture
def mild(tmp_path: Path) -> Path:
    """An Orion whose last norm's bias is as small as that of a trained one."""
    directory = write_checkpoint(tmp_path / "mild", "orion")
    tensors = tensors_of(directory)
    tensors["model.norm.bias"] *= 0.1
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def test_float16_has_no_room_for_the_tail_and_says_the_way_out(mild: Path, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"float16 overflows in the tail; use --dtype bfloat16 or float32"):
        kept.convert(mild, tmp_path / "out", dtype="float16")
    done = kept.convert(mild, tmp_path / "out", dtype="float16", final_bias="drop")
    assert done.plan.promise is Promise.APPROXIMATE
    assert done.plan.program.spec.depth == 3
    assert {tensor.dtype for tensor in tensors_of(done.path).values()} == {torch.float16}


def test_a_dropped_final_bias_is_gated_by_its_divergence(orion: Path, mild: Path, tmp_path: Path) -> None:
    with pytest.raises(PromiseError, match=r"not written; KL is 0\.\d+ nats per token, above 0\.1"):
        kept.convert(orion, tmp_path / "far", final_bias="drop")
    done = kept.convert(mild, tmp_path / "near", final_bias="drop")
    assert done.verification is not None
    assert done.verification.output.kl > 1e-6
    assert done.plan.promise is Promise.APPROXIMATE
    assert done.verification.proof is None


def test_a_shorter_context(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "mistral", "mistral", sliding_window=32)
    with pytest.raises(Refusal, match=r"a sliding window of 32 is active.*--context 32"):
        kept.convert(source, tmp_path / "out")
    done = kept.convert(source, tmp_path / "out", context=32)
    assert read_json(done.path / "config.json")["max_position_embeddings"] == 32
    tokens = some_tokens(2, 32)
    assert worst(stock_logits(done.path, tokens), logits(program_of(source), tokens)) < 1e-4


def test_a_recipe_s_own_passes_come_first(orion: Path, tmp_path: Path) -> None:
    recipe = Recipe(str(orion), str(tmp_path / "out"), passes=(FoldNormBias(),))
    done = kept.run(recipe)
    assert done.plan.steps[0].rewrite.name == "fold-norm-bias"
    assert done.verification is not None
    assert done.verification.failure is None


@pytest.mark.parametrize("size", ["1B", "40KB", "200KB"])
def test_shards_are_no_larger_than_asked(orion: Path, tmp_path: Path, size: str) -> None:
    out = kept.convert(orion, tmp_path / "out", max_shard_size=size, verify_tokens=0).path
    limit = Recipe("a", "b", max_shard_size=size).shard_bytes
    for file in out.glob("*.safetensors"):
        tensors = {k: t for k, t in tensors_of(out).items() if read_json(out / INDEX)["weight_map"][k] == file.name}
        nbytes = sum(tensor.numel() * DTYPE_BYTES["F32"] for tensor in tensors.values())
        assert nbytes <= limit or len(tensors) == 1


INDEX = "model.safetensors.index.json"


def test_a_sharded_source_gives_what_the_whole_one_does(orion: Path, tmp_path: Path) -> None:
    whole = kept.convert(orion, tmp_path / "whole", verify_tokens=0).path
    parts = kept.convert(split_into_shards(orion, 3), tmp_path / "parts", verify_tokens=0).path
    assert (whole / "model.safetensors").read_bytes() == (parts / "model.safetensors").read_bytes()
    assert len(read_json(parts / "kept.json")["source"]["files"]) == 4


# --------------------------------------------------------------------------------------------------------------- plans


def test_a_plan_reads_no_weight(orion: Path) -> None:
    file = orion / "model.safetensors"
    size = file.stat().st_size
    with file.open("r+b") as opened:
        opened.truncate(20_000)
        opened.truncate(size)
    plan = kept.plan(orion)
    assert plan.promise is Promise.EXACT
    assert plan.program.spec.depth == 4


def test_a_calibrated_plan_needs_no_text(orion: Path) -> None:
    plan = kept.plan(orion, norm="calibrated")
    assert plan.promise is Promise.LOSSY


def test_a_plan_s_options_are_a_recipe_s(orion: Path) -> None:
    assert kept.plan(orion, final_bias="drop").promise is Promise.APPROXIMATE
    with pytest.raises(RecipeError, match="nrom: is not a key of a recipe; did you mean norm"):
        kept.plan(orion, nrom="opm")  # type: ignore[call-arg]


# ------------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("place", ["", "out", "deep/down/out", "../orion/out"])
def test_an_output_inside_the_source_is_refused(orion: Path, place: str) -> None:
    before = all_bytes(orion)
    with pytest.raises(OutputError, match=r"exists already|lies inside the source; choose a place outside of it"):
        kept.convert(orion, orion / place)
    assert all_bytes(orion) == before


def test_so_is_one_inside_it_by_way_of_a_link(orion: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(orion)
    with pytest.raises(OutputError, match="lies inside the source"):
        kept.convert(orion, tmp_path / "link" / "out")


def test_an_existing_output_is_refused_before_the_source_is_opened(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="out: exists already"):
        kept.convert(tmp_path / "nowhere", tmp_path / "out")


def test_a_bad_source_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: is not a directory"):
        kept.convert(tmp_path / "nowhere", tmp_path / "out")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("content", [None, b"\xff", b"a"])
def test_a_bad_text_is_found_before_anything_is_written(readable: Path, tmp_path: Path, content: bytes | None) -> None:
    text = tmp_path / "my.txt"
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(InputError, match=r"my\.txt: (is not UTF-8 text|has 1 tokens|cannot be read)"):
        kept.convert(readable, tmp_path / "out", text=str(text))
    assert not hidden(tmp_path / "out").exists()


# ------------------------------------------------------------------------------------------------------ broken promises


@pytest.fixture
def broken_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """fold-norm-bias as it is known to be done wrong elsewhere: it folds into up and forgets the gate."""
    original = FoldNormBias.run

    def forgets_the_gate(self: FoldNormBias, program: Program) -> Program:
        from kept.ir.tensors import zeros

        right = original(self, program)
        gates = {name: t for name, t in right.weights.items() if name.endswith("mlp.gate.bias")}
        return right.updated(right.spec, {name: zeros(gate.shape, gate.dtype) for name, gate in gates.items()})

    monkeypatch.setattr(FoldNormBias, "run", forgets_the_gate)


@pytest.mark.usefixtures("broken_pass")
def test_a_broken_promise_is_not_published(orion: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    with pytest.raises(PromiseError, match=r"not written; in float64 the logits differ .* not exact; .*out\.unkept"):
        kept.convert(orion, target)
    assert not target.exists()
    assert not hidden(target).exists()
    aside = tmp_path / "out.unkept"
    record = read_json(aside / "kept.json")["verification"]
    assert record["kept"] is False
    assert "the map is not exact" in record["failure"]
    assert "Promise exact: broken: " in (aside / "README.md").read_text(encoding="utf-8")
    assert PromiseError.exit_code == 1


@pytest.mark.usefixtures("broken_pass")
def test_a_promise_broken_twice_states_it_twice(orion: Path, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(PromiseError, match=r"not exact"):
            kept.convert(orion, tmp_path / "out")
    assert {file.name for file in tmp_path.iterdir()} == {"orion", "out.unkept"}


@pytest.mark.usefixtures("broken_pass")
def test_a_folder_of_that_name_that_is_not_ours_is_unchanged(orion: Path, tmp_path: Path) -> None:
    (tmp_path / "out.unkept").mkdir()
    (tmp_path / "out.unkept" / "mine").write_text("precious", encoding="utf-8")
    for _ in range(2):
        with pytest.raises(PromiseError, match=r"the result is in .*out\.unkept-2 for a look"):
            kept.convert(orion, tmp_path / "out")
    assert (tmp_path / "out.unkept" / "mine").read_text(encoding="utf-8") == "precious"
    assert {file.name for file in tmp_path.iterdir()} == {"orion", "out.unkept", "out.unkept-2"} | {orion.name}


@pytest.mark.usefixtures("broken_pass")
def test_nobody_checks_what_nobody_asked_to_check(orion: Path, tmp_path: Path) -> None:
    assert kept.convert(orion, tmp_path / "out", verify_tokens=0).verification is None


def test_a_mended_pass_publishes_beside_the_broken_result(
    orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(export, "verify_staged", _says_no(export.verify_staged))
        with pytest.raises(PromiseError):
            kept.convert(orion, tmp_path / "out")
    kept.convert(orion, tmp_path / "out")
    assert {file.name for file in tmp_path.iterdir()} == {"orion", "out", "out.unkept"}


def _says_no(original: Any) -> Any:
    from dataclasses import replace

    def measured(*args: Any) -> Any:
        found = original(*args)
        return replace(found, output=replace(found.output, kl=float("nan"), perplexity=float("inf")))

    return measured


def test_nan_is_null_in_the_record(orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "verify_staged", _says_no(export.verify_staged))
    with pytest.raises(PromiseError, match="not finite"):
        kept.convert(orion, tmp_path / "out")
    text = (tmp_path / "out.unkept" / "kept.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert "Infinity" not in text
    output = read_json(tmp_path / "out.unkept" / "kept.json")["verification"]["output"]
    assert output["kl"] is output["perplexity"] is None


# ------------------------------------------------------------------------------------------------- again, and resumed


def test_two_runs_write_the_same_bytes(readable: Path, tmp_path: Path) -> None:
    first, second = (
        kept.convert(readable, tmp_path / name, max_shard_size="100KB", verify_tokens=64).path for name in ("a", "b")
    )
    assert all_bytes(first) == all_bytes(second)


def interrupted(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """A conversion that is stopped when all weights are written."""
    with monkeypatch.context() as patched:
        patched.setattr(export, "verify_staged", _stops)
        with pytest.raises(KeyboardInterrupt):
            kept.convert(source, target, **options)
    assert not target.exists()


def _stops(*_: Any) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_run_continues(orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    interrupted(orion, target, monkeypatch, max_shard_size="100KB")
    before = {file.name: file.stat().st_mtime_ns for file in hidden(target).glob("*.safetensors")}
    assert len(before) > 3
    kept.convert(orion, target, max_shard_size="100KB")
    assert {file.name: file.stat().st_mtime_ns for file in target.glob("*.safetensors")} == before
    whole = kept.convert(orion, tmp_path / "whole", max_shard_size="100KB").path
    assert all_bytes(target) == all_bytes(whole)


@pytest.mark.parametrize("what", ["another option", "the weights", "the config", "the version"])
def test_what_changed_meanwhile_is_begun_anew(
    orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    target = tmp_path / "out"
    options: dict[str, Any] = {}
    interrupted(orion, target, monkeypatch)
    if what == "another option":
        options["norm"] = "opm"
    elif what == "the weights":
        shutil.copy(write_checkpoint(tmp_path / "other", "orion", seed=1) / "model.safetensors", orion)
    elif what == "the config":
        change_json(orion / "config.json", hidden_act="relu2")
    else:
        monkeypatch.setattr(input_files, "version", lambda _: "99")
    done = kept.convert(orion, target, **options)
    fresh = kept.convert(orion, tmp_path / "fresh", **options)
    assert all_bytes(done.path) == all_bytes(fresh.path)


def test_a_calibration_text_that_changed_is_begun_anew(
    readable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "my.txt"
    text.write_text(PROSE, encoding="utf-8")
    options: dict[str, Any] = {"norm": "calibrated", "text": str(text), "verify_tokens": 64}
    interrupted(readable, tmp_path / "out", monkeypatch, **options)
    text.write_text(PROSE.upper() + "0123456789", encoding="utf-8")
    done = kept.convert(readable, tmp_path / "out", **options)
    fresh = kept.convert(readable, tmp_path / "fresh", **options)
    assert all_bytes(done.path) == all_bytes(fresh.path)


def test_an_interruption_does_not_wait_for_sums(orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[Path] = []

    def slow(file: Path, progress: Any = None) -> str:
        if progress is None:  # small files are hashed before anything is written
            return ""
        progress(1 << 40)  # the writer is far behind
        summed.append(file)
        return ""

    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write_files, "digest", slow)
    monkeypatch.setattr(Staging, "write_shard", fails)
    with pytest.raises(KeyboardInterrupt):
        kept.convert(split_into_shards(orion, 8), tmp_path / "out")
    assert not summed


# ---------------------------------------------------------------------------------------------- what changes meanwhile


@pytest.mark.parametrize("what", ["written to", "replaced", "gone", "the config"])
def test_a_source_that_changes_during_the_run_is_named(
    orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    file = orion / ("config.json" if what == "the config" else "model.safetensors")
    original = write_files.write_weights

    def meanwhile(*args: Any) -> Any:
        written = original(*args)
        if what == "gone":
            file.unlink()
        elif what == "replaced":
            shutil.copy(write_checkpoint(tmp_path / "other", "orion", seed=1) / file.name, file)
        else:
            with file.open("r+b") as opened:
                opened.write(opened.read(1))
        return written

    monkeypatch.setattr(export, "write_weights", meanwhile)
    with pytest.raises(CheckpointError, match=rf"{file.name}: (changed|disappeared) during the run; nothing was writ"):
        kept.convert(orion, tmp_path / "out", verify_tokens=0)
    assert not (tmp_path / "out").exists()
    assert not hidden(tmp_path / "out").exists(), "no later run can use it"


@pytest.mark.parametrize("error", [CheckpointError("bad"), RuntimeError("a mistake of ours"), MemoryError()])
@pytest.mark.parametrize("finished", [False, True])
def test_what_is_left_of_a_failed_run_is_what_the_next_can_use(
    orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, *, finished: bool
) -> None:
    def fails(*_: Any) -> None:
        raise error

    target = tmp_path / "out"
    options: dict[str, Any] = {"max_shard_size": "100KB", "verify_tokens": 64}
    with monkeypatch.context() as patched:
        patched.setattr(export, "verify_staged", fails)
        if not finished:
            patched.setattr(Staging, "write_shard", fails)
        with pytest.raises(type(error)):
            kept.convert(orion, target, **options)
    assert hidden(target).exists() == (finished and not isinstance(error, CheckpointError))
    kept.convert(orion, target, **options)


# --------------------------------------------------------------------------------------------------------------- killed

KILLS = 5


def convert_killably(source: str, target: str) -> None:
    """Code that a child process runs."""
    torch.set_num_threads(1)
    kept.convert(source, target, max_shard_size="20KB", verify_tokens=64)


def kill_when(source: Path, target: Path, files: int) -> bool:
    """Run a conversion and kill it once so many files are finished; whether it was killed in time."""
    run = forks().Process(target=convert_killably, args=(str(source), str(target)))
    run.start()
    while run.is_alive():
        if hidden(target).is_dir() and len([*hidden(target).iterdir()]) >= files:
            run.kill()
            break
        time.sleep(0.0005)
    run.join()
    return run.exitcode == -signal.SIGKILL


def test_a_killed_command_continues_to_the_same_bytes(tmp_path: Path) -> None:
    source = split_into_shards(write_checkpoint(tmp_path / "orion", "orion"), 3)
    target = tmp_path / "killed"
    whole = kept.convert(source, tmp_path / "whole", max_shard_size="20KB", verify_tokens=64).path
    total = len([*whole.iterdir()])
    assert total > 25
    moments = sorted(random.Random(5).sample(range(1, total), KILLS))
    killed = [kill_when(source, target, files) for files in moments]
    assert sum(killed) >= KILLS - 1, f"of {moments}, {killed}"
    assert not target.exists()
    assert (hidden(target) / JOURNAL).exists()
    convert_killably(str(source), str(target))
    assert all_bytes(target) == all_bytes(whole)
    assert not hidden(target).exists()


# ------------------------------------------------------------------------------------------------------------- progress


class Recorded:
    """A reporter that notes what it is told."""

    def __init__(self) -> None:
        self.stages: list[tuple[str, int, str]] = []
        self.done: dict[str, int] = {}

    def stage(self, name: str, total: int, unit: str) -> Any:
        from contextlib import nullcontext

        self.stages.append((name, total, unit))
        return nullcontext(lambda count: self.done.__setitem__(name, self.done.get(name, 0) + count))


def test_every_stage_ends_at_its_total(readable: Path, tmp_path: Path) -> None:
    text = tmp_path / "my.txt"
    text.write_text(PROSE, encoding="utf-8")
    reporter = Recorded()
    recipe = Recipe(str(readable), str(tmp_path / "out"), norm="calibrated", text=str(text), verify_tokens=16)
    done = kept.run(recipe, progress=reporter)
    assert [name for name, _, _ in reporter.stages] == ["calibrate", "write", "verify"]
    assert reporter.done == {name: total for name, total, _ in reporter.stages}
    assert reporter.done["write"] == done.plan.program.nbytes


@pytest.mark.parametrize("with_record", [True, False])
def test_so_does_verification_alone(done: Conversion, readable: Path, tmp_path: Path, *, with_record: bool) -> None:
    out = shutil.copytree(done.path, tmp_path / "out")
    if not with_record:
        (out / "kept.json").unlink()
    reporter = Recorded()
    kept.verify(readable, out, tokens=16, progress=reporter)
    assert reporter.done == {name: total for name, total, _ in reporter.stages}
