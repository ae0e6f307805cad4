"""Amounts, durations, prices and percentages as text."""

from __future__ import annotations

import math

import pytest

from kept import formatting
from kept.cli.display.forecast import _hours, _price


@pytest.mark.parametrize(
    ("count", "unit", "wanted"),
    [
        (0, "bytes", "0 B"),
        (999, "bytes", "999 B"),
        (1000, "bytes", "1 KB"),
        (123456, "bytes", "123 KB"),
        (5 * 10**9, "bytes", "5 GB"),
        (28 * 10**12, "bytes", "28000 GB"),
        (12, "layers", "12 layers"),
    ],
)
def test_amounts(count: int, unit: str, wanted: str) -> None:
    assert formatting.amount(count, unit) == wanted


@pytest.mark.parametrize(
    ("count", "wanted"), [(0, "0"), (999, "999"), (1234, "1.23 K"), (8_920_000, "8.92 M"), (14_500_000_000, "14.5 B")]
)
def test_numbers_of_parameters(count: int, wanted: str) -> None:
    assert formatting.parameters(count) == wanted


@pytest.mark.parametrize(
    ("hours", "price", "words"),
    [
        (2.0 / 3600, 0.001, ("2 s", "under 0.01")),
        (1e-6, 0.014, ("1 s", "0.01")),
        (0.5, 2.345, ("30.0 minutes", "2.35")),
        (3.0, 12.3, ("3.0 hours", "12.30")),
    ],
)
def test_short_runs_and_small_prices_are_told(hours: float, price: float, words: tuple[str, str]) -> None:
    assert (_hours(hours), _price(price)) == words


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [(0.98, 0.011, "98.0 ± 1.1 %"), (1.0, 0.0, "100 ± - %"), (0.5, math.nan, "50 ± - %")],
)
def test_how_far_two_models_agree_is_in_percent(value: float, error: float, words: str) -> None:
    assert formatting.percent(value, error) == words
