"""Zero biases."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kept.ir import spec as ir
from kept.passes.fill_biases import FillBiases, projections
from kept.passes.plain_to_gated import PlainToGated
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
    refusal,
    replaced,
    rewritten,
    rms_spec,
    unread,
    value,
)
from support.specs import plain_spec, specs, with_layer, with_mixer, with_mlp

PROJECTIONS = projections()
SLOTS = {
    **{name: name.replace("attention", "mixer").replace("dense", "mlp") for name in PROJECTIONS},
    "latent.q": "mixer.q",
    "latent.kv": "mixer.kv_a",
    "latent.o": "mixer.o",
}
LATENT = ir.LatentAttention(2, 2, 3, 4, 5, 6, ir.Rope(100.0, 4), ir.Norm("rms", 1e-3))

SOME = with_layer(rms_spec(), 1, mixer=replace(MIXER, o_bias=False))


class TestFillBiases(TargetPassContract):
    rewrite = FillBiases(PROJECTIONS)
    works_on: ClassVar = {"none there": plain_spec(), "all but one there": SOME}
    served = SOME
    refused = ()
    prepared_by = (
        (with_layer(layer_spec(), 1, mixer=replace(MIXER, fused=True)), SplitProjections()),
        (with_layer(layer_spec(), 1, mlp=replace(GATED, fused=True)), SplitProjections()),
        (with_layer(layer_spec(), 2, mlp=PLAIN), PlainToGated()),
    )


def without_biases(name: str) -> ir.Spec:
    """A model that has the projection, without biases."""
    spec = plain_spec()
    latent = replace(spec, layers=tuple(replace(layer, mixer=LATENT) for layer in spec.layers))
    return latent if name.startswith(LATENT.KIND) else spec


@pytest.mark.parametrize("name", PROJECTIONS)
def test_one_bias_in_every_layer(name: str) -> None:
    program = random_program(without_biases(name))
    filled = keeps(FillBiases((name,)), program)
    assert rewritten(program, filled) == {f"layers.{i}.{SLOTS[name]}.bias" for i in range(2)}
    assert not value(filled, f"layers.0.{SLOTS[name]}.bias").any()


def test_zeros_have_the_dtype_of_the_program() -> None:
    filled = FillBiases(PROJECTIONS)(unread(plain_spec(), "BF16"))
    assert {tensor.dtype for tensor in filled.weights.values()} == {"BF16"}


def test_biases_that_are_there_stay() -> None:
    program = random_program(SOME)
    assert rewritten(program, keeps(FillBiases(PROJECTIONS), program)) == {"layers.1.mixer.o.bias"}


@given(specs(), st.sets(st.sampled_from(PROJECTIONS)))
def test_any_model_that_is_split_and_gated(spec: ir.Spec, biases: set[str]) -> None:
    spec = with_mlp(with_mixer(spec, fused=False), fused=False, gated=True)
    keeps(FillBiases(tuple(sorted(biases))), random_program(spec))


@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_nonzero_bias_would_be_detected(name: str) -> None:
    """Negative control."""
    program = random_program(without_biases(name))
    slot = f"layers.1.{SLOTS[name]}.bias"
    filled = FillBiases((name,))(program)
    noise = torch.randn(filled.weights[slot].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert error(replaced(filled, {slot: 1e-3 * noise}), program) > 1e3 * TOLERANCE


def test_a_name_that_is_no_projection_is_refused() -> None:
    said = refusal(FillBiases(("attention.o", "attention.x")), random_program(plain_spec()))
    assert said == f"fill-biases: biases: 'attention.x' is not a projection; name some of {', '.join(PROJECTIONS)}"


@pytest.mark.parametrize("name", ["attention.q", "attention.k", "attention.v", "dense.gate", "dense.up"])
def test_part_of_a_fused_bias_is_refused_and_the_branch_is_named(name: str) -> None:
    fused = with_layer(layer_spec(), 1, mixer=replace(MIXER, fused=True), mlp=replace(GATED, fused=True))
    said = refusal(FillBiases((name,)), unread(fused))
    assert (
        said
        == f"fill-biases: layers.1.{SLOTS[name].partition('.')[0]}: has fused projections; run split-projections first"
    )


def test_other_biases_of_a_fused_model_can_be_filled() -> None:
    keeps(FillBiases(("attention.o", "dense.down")), random_program(with_mixer(plain_spec(), fused=True)))
