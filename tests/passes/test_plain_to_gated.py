"""Plain MLPs as gated ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch
from hypothesis import assume, given

from kept.ir.tensors import Stored
from kept.passes.plain_to_gated import PlainToGated
from support.logits import program_of, random_program
from support.models import write_checkpoint
from support.pass_contract import TargetPassContract
from support.pass_helpers import (
    GATED,
    PLAIN,
    TOLERANCE,
    error,
    keeps,
    layer_spec,
    replaced,
    rewritten,
    rms_spec,
    value,
)
from support.specs import ACTIVATIONS, mlp_of, specs, with_layer

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir import spec as ir


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_the_function_is_kept(activation: ir.Activation, bias: bool) -> None:  # noqa: FBT001 - a parameter of the test
    program = random_program(layer_spec(mlp=replace(PLAIN, activation=activation, up_bias=bias)))
    gated = keeps(PlainToGated(), program)
    new = ("gate.weight", "gate.bias", "up.weight", "up.bias") if bias else ("gate.weight", "up.weight", "up.bias")
    assert rewritten(program, gated) == {f"layers.{i}.mlp.{name}" for i in range(3) for name in new}
    assert gated.weights["layers.1.mlp.gate.weight"] is program.weights["layers.1.mlp.up.weight"]


def test_gated_layers_are_unchanged() -> None:
    program = random_program(with_layer(rms_spec(), 1, mlp=PLAIN))
    assert {name.split(".")[1] for name in rewritten(program, keeps(PlainToGated(), program))} == {"1"}


class TestPlainToGated(TargetPassContract):
    rewrite = PlainToGated()
    works_on: ClassVar = {"LayerNorms": layer_spec(mlp=PLAIN), "one layer": with_layer(rms_spec(), 1, mlp=PLAIN)}
    served = rms_spec(mlp=PLAIN)
    refused = ((layer_spec(mlp=GATED), "layers: have gated MLPs; leave this pass out"),)


@given(specs())
def test_any_model_with_a_plain_mlp(spec: ir.Spec) -> None:
    assume(not all(mlp_of(layer).gated for layer in spec.layers))
    keeps(PlainToGated(), random_program(spec))


def test_the_second_factor_must_be_one() -> None:
    """Negative control: an up bias of 0 closes the MLP, and one of 2 doubles it."""
    program = random_program(layer_spec(mlp=PLAIN))
    gated = PlainToGated()(program)
    for factor in (0.0, 2.0):
        other = {f"layers.{i}.mlp.up.bias": torch.full((24,), factor, dtype=torch.float64) for i in range(3)}
        assert error(replaced(gated, other), program) > 1e3 * TOLERANCE


def test_the_old_bias_belongs_to_the_gate() -> None:
    """Negative control."""
    program = random_program(layer_spec(mlp=PLAIN))
    gated = PlainToGated()(program)
    lost = replaced(gated, {"layers.1.mlp.gate.bias": torch.zeros(24, dtype=torch.float64)})
    assert error(lost, program) > 1e3 * TOLERANCE


def test_the_price_is_a_zero_matrix_a_layer() -> None:
    program = random_program(layer_spec(mlp=PLAIN))
    gated = PlainToGated()(program)
    assert gated.parameters - program.parameters == 3 * (24 * 16 + 24)
    assert not value(gated, "layers.0.mlp.up.weight").any()


def test_stored_bytes_stay_stored(tmp_path: Path) -> None:
    gated = PlainToGated()(program_of(write_checkpoint(tmp_path / "source", "starcoder2")))
    computed = {name for name, tensor in gated.weights.items() if not isinstance(tensor, Stored)}
    assert computed == {f"layers.{i}.mlp.up.{part}" for i in range(3) for part in ("weight", "bias")}
