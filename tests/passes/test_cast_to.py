"""Writing weights in another dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest
import torch

from kept.ir.promise import Promise
from kept.ir.tensors import DTYPE_BYTES, Stored, torch_dtype
from kept.nn import Model
from kept.passes.cast_to import CastTo
from kept.passes.centre import Centre
from support.logits import logits, program_of, random_program, worst
from support.models import write_checkpoint
from support.pass_contract import ExactPassContract, PassContract
from support.pass_helpers import (
    TOKENS,
    TOLERANCE,
    given,
    keeps,
    layer_spec,
    replaced,
    rewritten,
    rms_spec,
    rounded,
    unread,
)

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir import spec as ir
    from kept.ir.program import Program

DTYPES = tuple(DTYPE_BYTES)


def thirds(program: Program) -> Program:
    """The program with weights that no narrower dtype holds."""
    return replaced(program, {name: tensor.value("float64") / 3 for name, tensor in program.weights.items()})


@torch.inference_mode()
def written(program: Program) -> torch.Tensor:
    """Logits in float64 of the weights as they would be written."""
    stored = {name: tensor.read().double() for name, tensor in program.weights.items()}
    return logits(given(program.spec, stored), TOKENS)


class TestCastTo(ExactPassContract):
    rewrite = CastTo("F64")
    works_on: ClassVar = {"LayerNorms": layer_spec(), "RMSNorms": rms_spec()}
    refused = ()

    def program(self, spec: ir.Spec) -> Program:
        return rounded(random_program(spec), "BF16")

    def check(self, before: Program, after: Program) -> None:
        assert rewritten(before, after) == set(before.weights)


class TestUnknownDtype(PassContract):
    rewrite = CastTo("F8")
    works_on: ClassVar = {}
    refused = ((rms_spec(), "dtype: F8 is not one of F64, F32, F16, BF16; choose one of these"),)


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_exact_means_that_nothing_is_rounded(source: str, target: str) -> None:
    """For every pair of dtypes: the promise is EXACT if and only if every value of one is a value of the other."""
    program = rounded(random_program(layer_spec()), source)
    numbers, stored = torch.finfo(torch_dtype(source)), torch_dtype(source)
    extremes = torch.tensor([numbers.max, 1 + numbers.eps], dtype=torch.float64).to(stored)
    survives = torch.equal(extremes.to(torch_dtype(target)).to(stored), extremes)
    assert (CastTo(target).promise(program) is Promise.EXACT) is survives
    after = CastTo(target)(program)
    assert {tensor.dtype for tensor in after.weights.values()} == {target}
    if survives:
        keeps(CastTo(target), program)
        assert worst(written(after), written(program)) < TOLERANCE


@pytest.mark.parametrize("target", ["F32", "F16", "BF16"])
def test_rounding_shows_and_is_only_approximate(target: str) -> None:
    """Negative control."""
    program = thirds(random_program(layer_spec()))
    assert CastTo(target).promise(program) is Promise.APPROXIMATE
    assert worst(written(CastTo(target)(program)), written(program)) > 10 * TOLERANCE


def test_one_wide_weight_is_enough_for_approximate() -> None:
    program = unread(rms_spec(), "BF16")
    wide = program.updated(program.spec, {"head.weight": unread(rms_spec()).weights["head.weight"]})
    assert CastTo("BF16").promise(program) is Promise.EXACT
    assert CastTo("BF16").promise(wide) is Promise.APPROXIMATE
    assert rewritten(wide, CastTo("BF16")(wide)) == {"head.weight"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_that_have_the_dtype_are_unchanged(dtype: str) -> None:
    program = unread(rms_spec(), dtype)
    assert not rewritten(program, CastTo(dtype)(program))


def test_stored_bytes_of_the_dtype_stay_stored(tmp_path: Path) -> None:
    program = program_of(write_checkpoint(tmp_path / "source", "llama", dtype=torch.bfloat16))
    assert all(isinstance(tensor, Stored) for tensor in CastTo("BF16")(program).weights.values())


def test_values_are_rounded_once_at_the_end() -> None:
    """A pass after a cast still computes from the unrounded weights."""
    program = random_program(layer_spec())
    late, early = Centre()(CastTo("BF16")(program)), CastTo("BF16")(Centre()(program))
    assert all(torch.equal(late.weights[name].read(), early.weights[name].read()) for name in late.weights)
    name = "layers.0.mixer.o.weight"
    twice = Centre()(rounded(program, "BF16")).weights[name].read()
    assert not torch.equal(late.weights[name].read(), twice)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_the_model_runs_in_the_dtype(dtype: str) -> None:
    model = Model.load(CastTo(dtype)(random_program(rms_spec())))
    assert model(TOKENS).dtype is torch_dtype(dtype)
