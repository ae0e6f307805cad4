"""A norm for each part of a parallel block."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from hypothesis import given

from kept.families.gpt_neox import GPT_NEOX
from kept.passes.separate_norms import SeparateNorms
from support.logits import random_program
from support.pass_contract import TargetPassContract
from support.pass_helpers import (
    MIXER,
    PLAIN,
    TOLERANCE,
    error,
    keeps,
    layer_spec,
    replaced,
    rewritten,
    value,
)
from support.specs import specs

if TYPE_CHECKING:
    from kept.ir import spec as ir
    from kept.ir.program import Program


def shared(spec: ir.Spec) -> ir.Spec:
    """The spec with parallel blocks, each with one norm."""
    return replace(
        spec, layers=tuple(replace(layer, parallel=True, mlp_norm=None, shared_norm=True) for layer in spec.layers)
    )


class TestSeparateNorms(TargetPassContract):
    rewrite = SeparateNorms()
    works_on: ClassVar = {"shared": shared(layer_spec())}
    target = GPT_NEOX
    served = shared(layer_spec(replace(MIXER, heads=2, fused=True), PLAIN))
    refused = ((layer_spec(), "layers: share no norms; leave this pass out"),)

    def check(self, before: Program, after: Program) -> None:
        new = {f"layers.{i}.mlp_norm.{part}" for i in range(3) for part in ("gain", "bias")}
        assert rewritten(before, after) == new
        assert after.weights["layers.1.mlp_norm.gain"] is before.weights["layers.1.mixer_norm.gain"]


def test_another_gain_would_show() -> None:
    """Negative control."""
    program = random_program(shared(layer_spec()))
    name = "layers.1.mlp_norm.gain"
    after = SeparateNorms()(program)
    assert error(replaced(after, {name: value(after, name) * 1.01}), program) > 1e3 * TOLERANCE


@given(specs())
def test_any_shared_norm(spec: ir.Spec) -> None:
    keeps(SeparateNorms(), random_program(shared(spec)))


def test_only_the_layers_that_share_change() -> None:
    spec = layer_spec()
    first = replace(spec.layers[0], parallel=True, mlp_norm=None, shared_norm=True)
    program = random_program(replace(spec, layers=(first, *spec.layers[1:])))
    assert rewritten(program, keeps(SeparateNorms(), program)) == {"layers.0.mlp_norm.gain", "layers.0.mlp_norm.bias"}
