"""Conversions from end to end: what is written, what is measured, and what is planned."""

from __future__ import annotations

import shutil
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

import kept
from kept.checkpoint.byte_stream import digest
from kept.errors import InputError, PromiseError, RecipeError, Refusal
from kept.ir.promise import Promise
from kept.ir.slots import slots
from kept.ir.tensors import DTYPE_BYTES
from kept.passes.centre import Centre
from kept.passes.fold_norm_bias import FoldNormBias
from kept.recipe import Recipe
from kept.verification.calibration import calibrate
from kept.verification.pair import DOUBLE_TOKENS
from kept.verification.text import SAMPLE, sample
from support.logits import logits, program_of, some_tokens, stock_logits, worst
from support.models import write_checkpoint
from support.orion_formulas import reference_orion
from support.stored import (
    PROSE,
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
    assert found.same is not None
    assert found.output is not None
    assert found.floor is not None
    assert record["same"]["tokens"] == found.same.tokens == 128
    assert record["output"]["tokens"] == found.output.tokens == DOUBLE_TOKENS
    assert record["output"]["kl"] == found.output.kl
    assert record["floor"]["mean_logit_error"] == found.floor.mean_logit_error
    assert len(record["output"]["layers"]) == 4
    assert [pair["prompt"] for pair in record["continuations"]] == [pair.prompt for pair in found.continuations]


def test_the_verification_is_in_the_card(done: Conversion) -> None:
    found, card = done.verification, (done.path / "README.md").read_text(encoding="utf-8")
    assert found is not None
    assert found.same is not None
    assert found.output is not None
    assert found.floor is not None
    assert found.proof is not None
    first = f"**Largest logit difference {found.same.max_logit_error:.2g} (128 tokens, float32); the source's own "
    proof = f"in float64 the difference is {found.proof.max_logit_error:.2g}"
    assert f"{first}rounding is {found.floor.max_logit_error:.2g}; {proof}.** Promise exact: kept." in card
    assert f"| this checkpoint, in float32 | {found.output.max_logit_error:.2g} |" in card
    assert f"| {100 * found.output.top1:.2f} % |" in card
    assert f"Perplexity of that text in the source: {found.output.perplexity_reference:.4f}" in card
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
    assert done.verification.same is not None
    assert done.verification.same.kl > 0.01
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
    assert done.verification.same is not None
    assert done.verification.same.kl > 1e-6
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
    assert [name for name, _, _ in reporter.stages] == [
        "calibrate",
        "write",
        "compare weights",
        "verify",
        "continue texts",
    ]
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
