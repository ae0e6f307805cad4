"""Centring what writes the residual stream."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given

from kept.ir import spec as ir
from kept.ir.slots import readings, writers
from kept.passes.centre import Centre
from kept.passes.layer_norm_to_rms import LayerNormToRms
from kept.passes.untie_head import UntieHead
from support.logits import model_of, random_program
from support.pass_contract import ExactPassContract
from support.pass_helpers import (
    GATED,
    LAYER_NORM,
    MIXER,
    PLAIN,
    RMS_NORM,
    TOKENS,
    TOLERANCE,
    error,
    keeps,
    layer_spec,
    of_layer_norms,
    refusal,
    replaced,
    rewritten,
    rms_spec,
    value,
)
from support.specs import specs, with_layer

if TYPE_CHECKING:
    from kept.ir.program import Program

PARALLEL = ir.Layer(MIXER, GATED, LAYER_NORM, None, parallel=True, shared_norm=True)

SPECS = {
    "sequential": layer_spec(),
    "plain MLP": layer_spec(mlp=PLAIN),
    "learned positions": layer_spec(positions=40),
    "parallel": replace(layer_spec(), layers=(PARALLEL,) * 2),
    "fused": layer_spec(replace(MIXER, fused=True), replace(GATED, fused=True)),
    "no gain": layer_spec(norm=ir.Norm("layer", 1e-3, gain=False)),
}


@torch.inference_mode()
def means(program: Program) -> list[float]:
    """The largest mean of the residual stream at each place."""
    return [float(x.mean(-1).abs().max()) for x in model_of(program).streams(TOKENS)]


class TestCentre(ExactPassContract):
    rewrite = Centre()
    works_on = SPECS
    refused = (
        (
            rms_spec(),
            "layers.0.mixer_norm: is an RMSNorm, which depends on the mean; centring keeps only LayerNorm models",
        ),
    )
    prepared_by = ((layer_spec(head=ir.Head(tied=True)), UntieHead()),)

    def check(self, before: Program, after: Program) -> None:
        assert min(means(before)) > 1e-2
        assert max(means(after)) < 1e-13
        assert rewritten(before, after) == {writer for writer, _ in writers(before.spec)}


@given(specs())
def test_any_model_of_layer_norms(spec: ir.Spec) -> None:
    spec = of_layer_norms(spec)
    assert max(means(keeps(Centre(), random_program(spec)))) < 1e-12


def test_an_rmsnorm_model_would_change() -> None:
    """Negative control: the trap of METHODS 1.4, forced past the refusal."""
    program = random_program(rms_spec())
    assert error(Centre().run(program), program) > 1e-2


@pytest.mark.parametrize("writer", [name for name, _ in writers(layer_spec(positions=40))])
def test_a_forgotten_writer_would_show_behind_an_rmsnorm(writer: str) -> None:
    """Negative control of each writer: LayerNorm hides what is left of its mean, RMSNorm does not."""
    program = random_program(layer_spec(positions=40))
    centred = Centre()(program)
    assert error(LayerNormToRms()(centred), program) < TOLERANCE
    forgotten = replaced(centred, {writer: value(program, writer)})
    assert max(means(forgotten)) > 1e-3
    assert error(LayerNormToRms()(forgotten), program) > 1e3 * TOLERANCE


def test_a_centred_program_stays_what_it_is() -> None:
    centred = Centre()(random_program(layer_spec()))
    keeps(Centre(), centred)
    keeps(Centre(), LayerNormToRms()(centred))


@pytest.mark.parametrize("norm", [reading.norm for reading in readings(layer_spec())])
def test_one_rmsnorm_is_enough_to_refuse_and_is_named(norm: str) -> None:
    place, _, which = norm.rpartition(".")
    if place:
        spec = with_layer(layer_spec(), int(place.removeprefix("layers.")), **{which: RMS_NORM})
    else:
        spec = layer_spec(final_norm=RMS_NORM)
    said = refusal(Centre(), random_program(spec))
    assert said == f"centre: {norm}: is an RMSNorm, which depends on the mean; centring keeps only LayerNorm models"
