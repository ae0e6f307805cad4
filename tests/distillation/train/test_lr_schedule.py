"""The learning rate's way."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kept.distillation.train.lr_schedule import DECAY, FLOOR, Schedule, lr_factor

KINDS = get_args(Schedule)


@pytest.mark.parametrize("kind", KINDS)
@given(total=st.integers(1, 500), warmup=st.integers(0, 50))
def test_it_rises_once_and_never_again(kind: Schedule, total: int, warmup: int) -> None:
    way = [lr_factor(step, total, warmup, kind) for step in range(total)]
    assert all(0 < value <= 1 for value in way)
    assert way[:warmup] == sorted(way[:warmup])
    assert way[warmup:] == sorted(way[warmup:], reverse=True)


def test_a_cosine_schedule_is_at_half_in_the_middle_and_ends_at_its_minimum() -> None:
    assert lr_factor(10, 110, 10, "cosine") == 1
    assert lr_factor(60, 110, 10, "cosine") == pytest.approx((1 + FLOOR) / 2)
    assert lr_factor(110, 110, 10, "cosine") == pytest.approx(FLOOR)


def test_a_plateau_falls_at_the_end_only() -> None:
    way = [lr_factor(step, 100, 0, "wsd") for step in range(101)]
    assert set(way[: round(100 * (1 - DECAY)) + 1]) == {1.0}
    assert way[90] == pytest.approx(FLOOR**0.5)
    assert way[100] == pytest.approx(FLOOR)


def test_constant_is() -> None:
    assert {lr_factor(step, 9, 0, "constant") for step in range(9)} == {1.0}
