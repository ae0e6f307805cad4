"""Sliding windows that never slide, and shorter contexts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kept.ir.tensors import Stored
from kept.passes.drop_window import DropWindow, LimitContext
from support.logits import program_of, random_program, some_tokens
from support.models import write_checkpoint
from support.pass_contract import ExactPassContract, TargetPassContract
from support.pass_helpers import (
    MIXER,
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
from support.specs import CONTEXT, VOCABULARY, specs, with_layer, with_mixer

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir import spec as ir
    from kept.ir.program import Program

FULL = some_tokens(2, CONTEXT, VOCABULARY)
ACTIVE = "is active: the context has 40 positions; shorten the context"
LEARNED = layer_spec(replace(MIXER, rope=None), positions=CONTEXT)


class TestDropWindow(TargetPassContract):
    rewrite = DropWindow()
    works_on: ClassVar = {
        "the context": rms_spec(replace(MIXER, window=CONTEXT)),
        "longer than the context": rms_spec(replace(MIXER, window=CONTEXT + 1)),
        "no window": rms_spec(),
    }
    served = rms_spec(replace(MIXER, window=CONTEXT))
    refused = (
        (
            with_layer(rms_spec(), 1, mixer=replace(MIXER, window=7)),
            f"layers.1.mixer: a sliding window of 7 {ACTIVE} (--context 7)",
        ),
    )
    tokens = FULL

    def check(self, before: Program, after: Program) -> None:
        assert not rewritten(before, after)


class TestLimitContext(ExactPassContract):
    rewrite = LimitContext(12)
    works_on: ClassVar = {"RoPE": rms_spec(), "learned positions": LEARNED}
    refused = ((rms_spec(context=11), "context: has 11 positions, 12 were asked; ask for fewer"),)
    tokens = FULL[:, :12]

    def check(self, before: Program, after: Program) -> None:  # noqa: ARG002 - the contract's signature
        assert after.spec.context == 12
        assert after.spec.positions in (None, 12)


@given(specs(), st.integers(CONTEXT, CONTEXT + 2))
def test_any_model_with_such_a_window(spec: ir.Spec, window: int) -> None:
    keeps(DropWindow(), random_program(with_mixer(spec, window=window)), FULL)


@pytest.mark.parametrize("window", [1, 7, CONTEXT - 1])
def test_a_shorter_window_would_change(window: int) -> None:
    """Negative control, forced past the refusal: one key too few shows."""
    program = random_program(rms_spec(replace(MIXER, window=window)))
    assert error(DropWindow().run(program), program, FULL) > 1e3 * TOLERANCE


@pytest.mark.parametrize("window", [2, 12, CONTEXT - 1])
def test_a_shorter_context_is_the_way_out_of_a_shorter_window(window: int) -> None:
    program = random_program(with_layer(rms_spec(), 1, mixer=replace(MIXER, window=window)))
    assert refusal(DropWindow(), program).endswith(f"(--context {window})")
    keeps(DropWindow(), LimitContext(window)(program), FULL[:, :window])


@given(specs(), st.integers(2, CONTEXT))
def test_a_shorter_context_is_exact_for_what_fits(spec: ir.Spec, tokens: int) -> None:
    program = random_program(spec)
    limited = keeps(LimitContext(tokens), program, FULL[:, :tokens])
    assert limited.spec.context == tokens
    assert set(rewritten(program, limited)) <= {"positions.weight"}


def test_other_positions_would_show() -> None:
    """Negative control: the table's end, where its beginning belongs."""
    program = random_program(LEARNED)
    last = replaced(LimitContext(12)(program), {"positions.weight": value(program, "positions.weight")[-12:]})
    assert error(last, program) > 1e3 * TOLERANCE


def test_stored_bytes_stay_stored(tmp_path: Path) -> None:
    limited = LimitContext(12)(program_of(write_checkpoint(tmp_path / "source", "gpt2")))
    assert isinstance(limited.weights["positions.weight"], Stored)
    assert limited.weights["positions.weight"].shape == (12, 48)


@pytest.mark.parametrize("tokens", [0, -1, CONTEXT + 1])
def test_a_context_that_is_not_shorter_is_refused(tokens: int) -> None:
    said = refusal(LimitContext(tokens), unread(rms_spec()))
    assert said == f"limit-context: context: has 40 positions, {tokens} were asked; ask for fewer"
