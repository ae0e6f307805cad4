"""Intervals of proportions: published values, and coverage where a normal interval has none."""

from __future__ import annotations

import random

import pytest

from kept.evaluation.estimate import difference, mean
from kept.evaluation.interval import paired_interval, wilson


def outcomes(both: int, first: int, other: int, neither: int) -> tuple[list[bool], list[bool]]:
    a = [True] * both + [True] * first + [False] * other + [False] * neither
    b = [True] * both + [False] * first + [True] * other + [False] * neither
    return a, b


@pytest.mark.parametrize(
    ("passed", "count", "low", "high"), [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]
)
def test_wilson_s_interval(passed: int, count: int, low: float, high: float) -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3."""
    assert wilson(passed, count) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("counts", "low", "high"), [((36, 12, 2, 0), 0.0569, 0.3404), ((0, 30, 0, 0), 0.8395, 1.0)])
def test_newcombe_s_interval(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    """The first is of Newcombe, Statistics in Medicine 17 (1998) 2635, table III, method 10; the other by hand."""
    first, other = outcomes(*counts)
    assert paired_interval(other, first) == pytest.approx((low, high), abs=1e-4)


def test_equal_answers_are_no_proof_of_equality() -> None:
    found = difference(mean([1.0, 0.0] * 5), mean([1.0, 0.0] * 5))
    assert found.value == 0
    assert found.low < -0.05
    assert found.high > 0.05
    assert not found.significant


def test_nineteen_in_twenty_intervals_hold_the_difference() -> None:
    draw = random.Random(0)
    held = 0
    for _ in range(400):
        items = [draw.random() for _ in range(40)]
        first, other = [x < 0.9 for x in items], [x < 0.95 for x in items]
        low, high = paired_interval(first, other)
        held += low <= 0.05 <= high
    assert 370 <= held <= 400


def test_values_that_are_not_shares_have_no_such_interval() -> None:
    assert mean([0.0, 1.0]).proportion
    assert not mean([0.0, 0.5]).proportion
    assert mean([0.0, 0.5]).figure.low != mean([0.0, 0.5]).figure.low, "NaN"
