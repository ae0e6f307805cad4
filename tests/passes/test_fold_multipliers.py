"""Scalar multipliers in the weights beside them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given

from kept.ir import spec as ir
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.fold_multipliers import FoldMultipliers
from kept.passes.map_spec import map_layers
from kept.passes.plain_gains import PlainGains
from kept.passes.untie_head import UntieHead
from support.logits import random_program
from support.pass_contract import TargetPassContract
from support.pass_helpers import (
    GATED,
    MIXER,
    RMS_NORM,
    TOLERANCE,
    error,
    keeps,
    replaced,
    rewritten,
    rms_spec,
    value,
)
from support.specs import specs, with_mixer

if TYPE_CHECKING:
    from kept.ir.program import Program

QK = ir.QkNorm(RMS_NORM)
BARE = ir.Attention(4, 2, 8, ir.Rope(100.0, 8))


def granite(**mixer: object) -> ir.Spec:
    """Every multiplier that there is, each of them far from 1."""
    spec = rms_spec(replace(MIXER, scale=0.8), head=ir.Head(bias=True, multiplier=0.3), embedding_multiplier=7.0)
    return with_mixer(map_layers(spec, lambda layer: replace(layer, residual_multiplier=0.4)), **mixer)


SPECS = {
    "granite": granite(),
    "no biases": replace(granite(), layers=(replace(granite().layers[0], mixer=replace(BARE, scale=0.8)),)),
    "fused": granite(fused=True),
    "query-key norm": granite(qk_norm=QK),
    "offset gain": granite(qk_norm=ir.QkNorm(replace(RMS_NORM, offset=1.0))),
    "norms behind": map_layers(
        granite(), lambda layer: replace(layer, mixer_post_norm=replace(RMS_NORM, bias=True), mlp_post_norm=RMS_NORM)
    ),
    "tied alike": replace(granite(), head=ir.Head(tied=True, multiplier=7.0)),
}


class TestFoldMultipliers(TargetPassContract):
    rewrite = FoldMultipliers()
    works_on = SPECS
    served = replace(granite(), head=ir.Head(multiplier=0.3))
    refused = ((rms_spec(), "model: has no multiplier; leave this pass out"),)
    prepared_by = (
        (replace(granite(), head=ir.Head(tied=True)), UntieHead()),
        (replace(granite(), head=ir.Head(normalised=True, multiplier=2.0)), FoldHeadNorm()),
        (granite(qk_norm=ir.QkNorm(replace(RMS_NORM, gain=False))), PlainGains()),
    )

    def check(self, before: Program, after: Program) -> None:
        assert after.parameters == before.parameters
        assert set(after.weights) == set(before.weights)


@given(specs())
def test_any_model_that_it_accepts(spec: ir.Spec) -> None:
    program = random_program(spec)
    assume(FoldMultipliers().requires(program) is None)
    keeps(FoldMultipliers(), program)


@pytest.mark.parametrize("weight", sorted(rewritten(p := random_program(granite()), FoldMultipliers()(p))))
def test_each_scaled_weight_counts(weight: str) -> None:
    """Negative control: one that keeps its old value would show."""
    program = random_program(granite())
    folded = FoldMultipliers()(program)
    assert error(replaced(folded, {weight: value(program, weight)}), program) > 1e3 * TOLERANCE


def test_only_what_is_multiplied_changes() -> None:
    program = random_program(rms_spec(replace(BARE, scale=0.8), replace(GATED, up_bias=False)))
    wanted = {f"layers.{i}.mixer.q.weight" for i in range(3)}
    assert rewritten(program, FoldMultipliers()(program)) == wanted
