"""Layers with different numbers of key-value heads as layers with one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch

from kept.ir import spec as ir
from kept.passes.repeat_kv_heads import RepeatKeyValueHeads
from kept.passes.split_projections import SplitProjections
from support.logits import random_program
from support.pass_contract import TargetPassContract
from support.pass_helpers import MIXER, RMS_NORM, TOLERANCE, error, keeps, refusal, replaced, rms_spec, value
from support.specs import attention_of, with_layer

if TYPE_CHECKING:
    from kept.ir.program import Program

SHARED = replace(MIXER, heads=8, qk_norm=ir.QkNorm(RMS_NORM))
DECI = with_layer(
    with_layer(rms_spec(SHARED), 0, mixer=replace(SHARED, kv_heads=1)), 2, mixer=replace(SHARED, kv_heads=4)
)
FUSED = replace(SHARED, qk_norm=None, fused=True)


class TestRepeatKeyValueHeads(TargetPassContract):
    rewrite = RepeatKeyValueHeads()
    works_on: ClassVar = {"deci": DECI}
    served = with_layer(rms_spec(), 1, mixer=replace(MIXER, kv_heads=1))
    refused = ((rms_spec(), "layers: have 2 key-value heads each; leave this pass out"),)
    prepared_by = ((with_layer(rms_spec(FUSED), 0, mixer=replace(FUSED, kv_heads=1)), SplitProjections()),)

    def check(self, before: Program, after: Program) -> None:  # noqa: ARG002 - the contract's signature
        assert [attention_of(layer).kv_heads for layer in after.spec.layers] == [4, 4, 4]


@pytest.mark.parametrize("heads", [4, 8])
def test_the_number_may_be_given(heads: int) -> None:
    after = keeps(RepeatKeyValueHeads(heads), random_program(rms_spec(replace(SHARED, kv_heads=2))))
    assert attention_of(after.spec.layers[0]).kv_heads == heads


def test_heads_repeated_in_another_order_would_show() -> None:
    """Negative control: the whole block after itself instead of each head after itself."""
    program = random_program(rms_spec(replace(SHARED, kv_heads=2)))
    after = RepeatKeyValueHeads(4)(program)
    tiled = {f"layers.{i}.mixer.k.weight": value(program, f"layers.{i}.mixer.k.weight").repeat(2, 1) for i in range(3)}
    assert error(replaced(after, tiled), program) > 1e3 * TOLERANCE


def test_layers_that_have_as_many_already_are_unchanged() -> None:
    program = random_program(DECI)
    after = RepeatKeyValueHeads()(program)
    assert after.weights["layers.2.mixer.k.weight"] is program.weights["layers.2.mixer.k.weight"]
    assert torch.equal(value(after, "layers.0.mixer.v.weight")[:8], value(program, "layers.0.mixer.v.weight"))


@pytest.mark.parametrize(
    ("spec", "heads", "said"),
    [
        (
            rms_spec(),
            3,
            "layers.0.mixer: has 4 heads over 2, which 3 cannot replace; no number of heads serves all layers",
        ),
        (
            with_layer(rms_spec(replace(SHARED, qk_norm=ir.QkNorm(RMS_NORM, "own"))), 0, mixer=SHARED),
            4,
            "layers.1.mixer: has a norm of its own for each head; none is known",
        ),
    ],
)
def test_refusals(spec: ir.Spec, heads: int, said: str) -> None:
    assert refusal(RepeatKeyValueHeads(heads), random_program(spec)) == f"repeat-key-value-heads: {said}"
