"""Parts that are equal to the bit are found without arithmetic, and nothing else is taken for equal."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

import kept
from kept.ir.promise import Claim
from kept.ir.tensors import Full
from kept.passes.expand_vocabulary import ExpandVocabulary, Growth
from kept.reporting import Silent
from kept.verification import pair
from kept.verification.equal_parts import adds_nothing, compared_bytes, equal_sources, equal_values
from kept.verification.pair import ModelPair
from kept.verification.streamed import StreamedRun
from support.logits import program_of, some_tokens
from support.models import write_checkpoint
from support.stored import change_json

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

    from kept.verification.pair import PairParity

TOKENS = some_tokens(2, 17)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("source") / "llama", "llama", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def expanded(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kept.expand(source, tmp_path_factory.mktemp("expanded") / "out", groups=1, verify_tokens=0).path


def edited(directory: Path, target: Path, name: str, change: Callable[[Tensor], Tensor]) -> Path:
    """Return a copy of a checkpoint with one tensor changed."""
    shutil.copytree(directory, target)
    for file in target.glob("*.safetensors"):
        tensors = load_file(file)
        if name in tensors:
            save_file({**tensors, name: change(tensors[name]).contiguous()}, file, metadata={"format": "pt"})
            return target
    raise AssertionError(name)


def flipped(weight: Tensor) -> Tensor:
    """One bit of one number is another."""
    out = weight.clone()
    out.view(-1)[7:8].view(torch.int16).bitwise_xor_(1)
    return out


def measured(source: Path, output: Path, claim: Claim | None = None) -> PairParity:
    return ModelPair(program_of(source), program_of(output), claim or Claim(), TOKENS).measure(Silent())


def expansion(source: Path, expanded: Path) -> Claim:
    """The claim of the expansion: its last layer is a copy, and its plan is the model itself."""
    return Claim(program=program_of(expanded), copies=(program_of(source).spec.depth,))


# ------------------------------------------------------------------------------------------ nothing is run


def test_a_copy_is_identical_without_arithmetic(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair, "measure", lambda *_: pytest.fail("something was run"))
    found = measured(source, shutil.copytree(source, tmp_path / "copy"))
    assert found.copied
    assert found.same is found.proof is None


def test_values_are_compared_in_the_output_s_dtype(tmp_path: Path) -> None:
    wide, narrow = (write_checkpoint(tmp_path / str(d), "llama", dtype=d) for d in (torch.float32, torch.bfloat16))
    programs = program_of(wide), program_of(narrow)
    assert equal_values(*programs, Claim(), torch.bfloat16).complete
    assert not equal_values(*programs, Claim(), torch.float32).complete


def test_bytes_are_counted(source: Path) -> None:
    program, seen = program_of(source), list[int]()
    equal_values(program, program, Claim(), torch.bfloat16, seen.append)
    assert sum(seen) == compared_bytes(program, program, Claim()) == program.nbytes


# ------------------------------------------------------------------------------------------ layers are run once


def test_an_expansion_runs_the_source_and_the_new_layer(
    source: Path, expanded: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    original = StreamedRun.block

    def watched(self: StreamedRun, layer: int) -> torch.nn.Module:
        ran.append(f"{self.dtype} {layer}")
        return original(self, layer)

    monkeypatch.setattr(StreamedRun, "block", watched)
    found = measured(source, expanded, expansion(source, expanded))
    depth = program_of(source).spec.depth
    assert ran == [f"torch.bfloat16 {layer}" for layer in range(depth + 1)]
    assert found.copied
    assert found.same is not None
    assert found.same.identical
    assert found.same.layers == (0,) * (depth + 1)
    assert found.output is None


def test_a_plan_shares_the_source_s_tensors_without_a_read(source: Path) -> None:
    program = program_of(source)
    assert equal_sources(program, program, Claim()).complete
    name = "layers.1.mixer.q.weight"
    old = program.weights[name]
    other = program.updated(program.spec, {name: Full(old.shape, old.dtype, 1.0)})
    found = equal_sources(program, other, Claim())
    assert not found.complete
    assert 1 not in found.layers
    assert found.layers.keys() == {*range(program.spec.depth)} - {1}


# ------------------------------------------------------------------------------------------ negative controls


@pytest.mark.parametrize(
    "name",
    [
        "model.embed_tokens.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.0.input_layernorm.weight",
        "model.norm.weight",
        "lm_head.weight",
    ],
)
def test_one_flipped_bit(source: Path, tmp_path: Path, name: str) -> None:
    found = measured(source, edited(source, tmp_path / "out", name, flipped))
    assert not found.copied
    assert found.floor is not None, "both were run in float64 too"


def test_a_row_of_a_tied_head_that_no_token_of_the_text_uses(tmp_path: Path) -> None:
    """The embedding is the head too: every position has a logit for it."""
    source = write_checkpoint(tmp_path / "llama", "llama", dtype=torch.bfloat16, tie_word_embeddings=True)

    def last_row(weight: torch.Tensor) -> torch.Tensor:
        weight = weight.clone()
        weight[-1] += 1
        return weight

    out = edited(source, tmp_path / "out", "model.embed_tokens.weight", last_row)
    found = measured(source, out)
    assert int(TOKENS.max()) < program_of(source).spec.vocabulary - 1
    assert not found.copied
    assert found.same is not None
    assert found.output is not None
    assert min(found.same.max_logit_error, found.output.max_logit_error) > 0.1


def test_an_output_with_more_tokens_is_no_copy(source: Path) -> None:
    program = program_of(source)
    grown = ExpandVocabulary("nowhere", growth=Growth(program.spec.vocabulary, ((3, 5), (7,))))(program)
    assert not equal_values(program, grown, Claim(), torch.bfloat16).complete
    claim = Claim(tokens=program.spec.vocabulary)
    assert equal_values(program, grown, claim, torch.bfloat16).complete
    found = ModelPair(program, grown, claim, TOKENS).measure(Silent())
    assert found.copied
    assert found.same is not None, "the text is run, and its tokens are stated"
    assert found.same.identical


def test_a_number_in_the_config(source: Path, tmp_path: Path) -> None:
    out = shutil.copytree(source, tmp_path / "out")
    change_json(out / "config.json", rms_norm_eps=0.1)
    found = measured(source, out)
    assert not found.copied
    assert found.same is not None
    assert found.same.max_logit_error > 0


def test_layers_in_another_order(source: Path) -> None:
    program = program_of(source)
    swap = {"0": "1", "1": "0"}
    names = [name for name in program.weights if name.startswith(("layers.0.", "layers.1."))]
    moved = {f"layers.{swap[name[7]]}{name[8:]}": program.weights[name] for name in names}
    found = ModelPair(program, program.updated(program.spec, moved), Claim(), TOKENS).measure(Silent())
    assert not found.copied
    assert found.same is not None
    assert found.same.max_logit_error > 0


def test_a_new_layer_with_an_output_too_small_for_the_dtype(source: Path, expanded: Path, tmp_path: Path) -> None:
    """Its contribution is lost when it is added in bfloat16, but not in float64."""
    claim = expansion(source, expanded)
    name = f"model.layers.{claim.copies[0]}.mlp.down_proj.weight"
    broken = edited(expanded, tmp_path / "out", name, lambda w: torch.full_like(w, 1e-7))
    assert not adds_nothing(program_of(broken), claim.copies[0])
    found = measured(source, broken, replace(claim, program=program_of(broken)))
    assert not found.copied
    assert found.same is not None
    assert found.same.identical, "in bfloat16 nothing shows"
    assert found.proof is not None
    assert found.proof.max_logit_error > 1e-9


def test_a_copy_that_overflows(tmp_path: Path) -> None:
    """Zero times infinity is no number: weights of zero are not enough."""
    source = write_checkpoint(tmp_path / "llama", "llama", dtype=torch.float16)
    expanded = kept.expand(source, tmp_path / "out", groups=1, verify_tokens=0).path
    claim = expansion(source, expanded)
    name = f"model.layers.{claim.copies[0]}.mlp.up_proj.weight"
    broken = edited(expanded, tmp_path / "broken", name, lambda w: torch.full_like(w, 60000.0))
    assert adds_nothing(program_of(broken), claim.copies[0])
    found = measured(source, broken, claim)
    assert not found.copied
    assert found.same is not None
    assert not found.same.max_logit_error < torch.inf


def test_a_layer_too_many(source: Path, expanded: Path) -> None:
    """Without the claim that it is a copy, a layer that adds nothing is run."""
    found = measured(source, expanded)
    assert not found.copied
    assert found.same is not None
    assert found.same.identical
