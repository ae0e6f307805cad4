"""Pass plain-gains: offset and missing gains as plain ones."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import assume, given

from kept.ir import spec as ir
from kept.ir.slots import norms
from kept.passes.map_spec import map_norms
from kept.passes.plain_gains import PlainGains
from support.logits import random_program
from support.pass_contract import TargetPassContract
from support.pass_helpers import (
    LAYER_NORM,
    MIXER,
    RMS_NORM,
    TOLERANCE,
    error,
    keeps,
    layer_spec,
    replaced,
    rms_spec,
    value,
)
from support.specs import specs

if TYPE_CHECKING:
    from kept.ir.program import Program

QK = replace(MIXER, qk_norm=ir.QkNorm(RMS_NORM, "own"))


def everywhere(norm: ir.Norm) -> ir.Spec:
    """One norm before and behind every part, on queries and keys, and at the end."""
    spec = layer_spec(QK)
    behind = tuple(replace(layer, mixer_post_norm=norm, mlp_post_norm=norm) for layer in spec.layers)
    return map_norms(replace(spec, layers=behind), lambda _: norm)


ODD = {
    "offset": replace(RMS_NORM, offset=1.0),
    "LayerNorm1p": replace(LAYER_NORM, offset=1.0),
    "no gain": ir.Norm("layer", 1e-3, gain=False),
    "bias but no gain": ir.Norm("rms", 1e-3, gain=False, bias=True),
}


SPECS = {name: everywhere(norm) for name, norm in ODD.items()}


class TestPlainGains(TargetPassContract):
    rewrite = PlainGains()
    works_on = SPECS
    served = rms_spec(norm=ODD["offset"])
    refused = ((layer_spec(), "norms: have plain gains; leave this pass out"),)

    def check(self, before: Program, after: Program) -> None:
        assert all(norm.gain and norm.offset == 0 for _, norm, _ in norms(after.spec))
        for at, norm, shape in norms(before.spec):
            wanted = value(before, f"{at}.gain") + 1 if norm.gain else torch.ones(shape, dtype=torch.float64)
            assert torch.equal(value(after, f"{at}.gain"), wanted)


@given(specs())
def test_any_model_that_it_accepts(spec: ir.Spec) -> None:
    program = random_program(spec)
    assume(PlainGains().requires(program) is None)
    keeps(PlainGains(), program)


@pytest.mark.parametrize("times", [0, 2])
def test_an_offset_is_added_once(times: int) -> None:
    """Negative control: forgotten or added twice, as METHODS 1.4 has seen it."""
    program = random_program(everywhere(ODD["offset"]))
    plain = PlainGains()(program)
    wrong = {f"{at}.gain": value(program, f"{at}.gain") + times for at, _, _ in norms(program.spec)}
    assert error(replaced(plain, wrong), program) > 1e3 * TOLERANCE


def test_a_place_without_a_norm_gets_none() -> None:
    assert PlainGains().requires(random_program(layer_spec(norm=ir.NO_NORM))) is not None
