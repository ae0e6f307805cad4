"""Separate projections as one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from hypothesis import given
from hypothesis import strategies as st

from kept.families.gpt_neox import GPT_NEOX
from kept.passes.fill_biases import FillBiases
from kept.passes.fuse_projections import FuseProjections
from kept.passes.split_projections import SplitProjections
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
    rms_spec,
    value,
)
from support.specs import specs, with_mixer

if TYPE_CHECKING:
    from kept.ir import spec as ir


MULTI_HEAD = replace(MIXER, heads=2)
"""Attention as GPT-NeoX has it, less its layout."""


class TestFuseProjections(TargetPassContract):
    rewrite = FuseProjections()
    works_on: ClassVar = {"biases": rms_spec(), "one key-value head": rms_spec(replace(MIXER, kv_heads=1))}
    target = GPT_NEOX
    served = layer_spec(MULTI_HEAD, PLAIN)
    refused = ((rms_spec(replace(MIXER, fused=True)), "layers: have fused projections; leave this pass out"),)
    prepared_by = ((rms_spec(replace(MIXER, k_bias=False)), FillBiases(("attention.k",))),)


@given(specs(), st.booleans())
def test_any_model_of_separate_projections(spec: ir.Spec, bias: bool) -> None:  # noqa: FBT001 - drawn
    apart = with_mixer(spec, fused=False, q_bias=bias, k_bias=bias, v_bias=bias)
    keeps(FuseProjections(), random_program(apart))


def test_splitting_gives_the_very_tensors_back() -> None:
    program = random_program(rms_spec())
    again = SplitProjections()(FuseProjections()(program))
    assert again.spec == program.spec
    assert dict(again.weights) == dict(program.weights)


def test_parts_in_another_order_would_show() -> None:
    """Negative control."""
    program = random_program(rms_spec(replace(MIXER, kv_heads=4)))
    fused = FuseProjections()(program)
    rolled = {n: value(fused, n).roll(32, 0) for n in (f"layers.{i}.mixer.qkv.weight" for i in range(3))}
    assert error(replaced(fused, rolled), program) > 1e3 * TOLERANCE
