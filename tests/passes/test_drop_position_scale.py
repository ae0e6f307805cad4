"""A factor on queries that grows with their position, where it is 1."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import pytest

from kept.ir.spec import PositionScale
from kept.passes.drop_position_scale import DropPositionScale
from support.logits import some_tokens
from support.pass_contract import TargetPassContract
from support.pass_helpers import MIXER, TOLERANCE, error, rewritten, rms_spec
from support.specs import CONTEXT, VOCABULARY, with_layer

if TYPE_CHECKING:
    from kept.ir.program import Program

FULL = some_tokens(2, CONTEXT, VOCABULARY)
ACTIVE = "the context has 40 positions; shorten the context"
SCALED = replace(MIXER, position_scale=PositionScale(0.3, CONTEXT))


class TestDropPositionScale(TargetPassContract):
    rewrite = DropPositionScale()
    works_on: ClassVar = {"the context": rms_spec(SCALED), "no factor": rms_spec()}
    served = rms_spec(SCALED)
    refused = (
        (
            with_layer(rms_spec(), 1, mixer=replace(MIXER, position_scale=PositionScale(0.3, 7))),
            f"layers.1.mixer: queries are scaled from position 7 on: {ACTIVE} (--context 7)",
        ),
    )
    tokens = FULL

    def check(self, before: Program, after: Program) -> None:
        assert not rewritten(before, after)


@pytest.mark.parametrize("length", [1, 7, CONTEXT - 1])
def test_a_shorter_length_would_change(length: int) -> None:
    program = TestDropPositionScale().program(rms_spec(replace(MIXER, position_scale=PositionScale(0.3, length))))
    plain = replace(program, spec=rms_spec())
    assert error(plain, program, FULL) > 1e3 * TOLERANCE
    assert error(plain, program, FULL[:, :length]) < TOLERANCE
