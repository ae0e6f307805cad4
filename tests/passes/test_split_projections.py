"""Splitting fused projections."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import assume, given

from kept.ir.program import Program
from kept.ir.slots import slots
from kept.ir.tensors import Stored
from kept.passes.split_projections import SplitProjections
from support.logits import random_program
from support.pass_contract import TargetPassContract
from support.pass_helpers import (
    GATED,
    MIXER,
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
from support.specs import attention_of, mlp_of, specs, with_layer

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir import spec as ir

FUSED = replace(MIXER, fused=True)
FUSED_MLP = replace(GATED, fused=True)
UNBIASED = replace(FUSED, q_bias=False, k_bias=False, v_bias=False)

SPECS = {
    "both": layer_spec(FUSED, FUSED_MLP),
    "attention only": layer_spec(FUSED),
    "MLP only": layer_spec(mlp=FUSED_MLP),
    "without biases": rms_spec(UNBIASED, replace(FUSED_MLP, gate_bias=False, up_bias=False)),
    "plain MLP": layer_spec(FUSED, PLAIN),
    "one layer": with_layer(layer_spec(), 1, mixer=FUSED, mlp=FUSED_MLP),
}


class TestSplitProjections(TargetPassContract):
    rewrite = SplitProjections()
    works_on = SPECS
    served = rms_spec(FUSED, FUSED_MLP)
    refused = ((layer_spec(), "layers: have no fused projection; leave this pass out"),)

    def check(self, before: Program, after: Program) -> None:
        assert rewritten(before, after) == set(after.weights) - set(before.weights)
        assert not any("qkv" in weight or "gate_up" in weight for weight in after.weights)


@given(specs())
def test_any_model_with_fused_projections(spec: ir.Spec) -> None:
    assume(any(attention_of(layer).fused or mlp_of(layer).fused for layer in spec.layers))
    keeps(SplitProjections(), random_program(spec))


@pytest.mark.parametrize("pair", [("mixer.k", "mixer.v"), ("mlp.gate", "mlp.up")])
@pytest.mark.parametrize("part", ["weight", "bias"])
def test_parts_in_another_order_would_show(pair: tuple[str, str], part: str) -> None:
    """Negative control: the shapes fit either way."""
    program = random_program(layer_spec(FUSED, FUSED_MLP))
    split = SplitProjections()(program)
    first, second = (f"layers.1.{name}.{part}" for name in pair)
    swapped = replaced(split, {first: value(split, second), second: value(split, first)})
    assert error(swapped, program) > 1e3 * TOLERANCE


def test_parts_of_stored_bytes_are_stored_bytes(tmp_path: Path) -> None:
    """They are copied from the middle of the fused tensor."""
    spec = layer_spec(FUSED, FUSED_MLP)
    weights = {}
    for name, slot in slots(spec).items():
        raw = torch.randn(slot.shape, generator=torch.Generator().manual_seed(len(name)))
        (tmp_path / name).write_bytes(bytes(8) + raw.numpy().tobytes())
        weights[name] = Stored(slot.shape, "F32", tmp_path / name, 8)
    program = Program(spec, weights)
    split = keeps(SplitProjections(), program)
    assert all(isinstance(tensor, Stored) for tensor in split.weights.values())
    assert split.nbytes == program.nbytes
