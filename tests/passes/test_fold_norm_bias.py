"""Folding norm biases into the projections behind them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import assume, given

from kept.ir import spec as ir
from kept.ir.slots import readings
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.fold_norm_bias import FoldNormBias
from support.logits import random_program
from support.pass_contract import TargetPassContract
from support.pass_helpers import (
    GATED,
    LAYER_NORM,
    MIXER,
    PLAIN,
    RMS_NORM,
    TOLERANCE,
    error,
    keeps,
    layer_spec,
    replaced,
    rewritten,
    rms_spec,
    value,
    with_norms,
)
from support.specs import specs, with_layer

if TYPE_CHECKING:
    from kept.ir.program import Program

UNBIASED = ir.Attention(4, 2, 8, ir.Rope(100.0, 8))
SHARED = ir.Layer(MIXER, GATED, LAYER_NORM, None, parallel=True, shared_norm=True)

SPECS = {
    "biases there": layer_spec(),
    "no biases there": layer_spec(UNBIASED, ir.Mlp(24, "silu")),
    "only a query bias there": layer_spec(replace(UNBIASED, q_bias=True)),
    "RMSNorm with bias": with_norms(rms_spec(), bias=True),
    "plain MLP": layer_spec(mlp=PLAIN),
    "plain MLP without bias": layer_spec(mlp=replace(PLAIN, up_bias=False)),
    "fused": layer_spec(replace(MIXER, fused=True), replace(GATED, fused=True)),
    "fused without bias": layer_spec(replace(UNBIASED, fused=True), ir.Mlp(24, "silu", fused=True)),
    "tied head": layer_spec(head=ir.Head(tied=True)),
    "head bias": layer_spec(head=ir.Head(bias=True)),
    "offset gain": layer_spec(norm=replace(LAYER_NORM, offset=1.0)),
    "parallel, one norm": replace(layer_spec(), layers=(SHARED, SHARED)),
    "some layers": with_layer(layer_spec(UNBIASED), 1, mixer_norm=RMS_NORM),
    "final norm only": with_layer(replace(rms_spec(), final_norm=LAYER_NORM), 0),
}


def reader_biases(spec: ir.Spec) -> set[str]:
    return {f"{name}.bias" for reading in readings(spec) if reading.value.bias for name in reading.projections}


class TestFoldNormBias(TargetPassContract):
    rewrite = FoldNormBias()
    works_on = SPECS
    served = replace(SPECS["RMSNorm with bias"], final_norm=RMS_NORM)
    refused = ((rms_spec(), "norms: have no bias; leave this pass out"),)
    prepared_by = ((layer_spec(head=ir.Head(normalised=True)), FoldHeadNorm()),)

    def check(self, before: Program, after: Program) -> None:
        assert rewritten(before, after) == reader_biases(before.spec)
        assert not any("norm.bias" in weight for weight in after.weights)


@given(specs())
def test_any_model_with_a_norm_bias(spec: ir.Spec) -> None:
    assume(any(reading.value.bias for reading in readings(spec)))
    assume(not (spec.head.normalised and spec.final_norm.bias))
    keeps(FoldNormBias(), random_program(spec))


@pytest.mark.parametrize("bias", sorted(reader_biases(layer_spec(head=ir.Head(bias=True)))))
def test_each_reader_counts(bias: str) -> None:
    """Negative control; the gate's is the one that is known to be forgotten elsewhere."""
    program = random_program(layer_spec(head=ir.Head(bias=True)))
    folded = FoldNormBias()(program)
    forgotten = replaced(folded, {bias: value(program, bias)})
    assert error(folded, program) < TOLERANCE
    assert error(forgotten, program) > 1e3 * TOLERANCE


def test_the_price_is_a_vector_for_each_reader() -> None:
    program = random_program(layer_spec(UNBIASED, ir.Mlp(24, "silu")))
    layer = 32 + 16 + 16 + 24 + 24 - 2 * 16
    assert FoldNormBias()(program).parameters - program.parameters == 3 * layer + 11 - 16


def test_a_head_that_is_normalised_later_is_folded_first() -> None:
    """Its own rows times the bias are not what the model computes."""
    program = random_program(layer_spec(head=ir.Head(normalised=True)))
    assert error(FoldNormBias().run(program), program) > 1e3 * TOLERANCE
