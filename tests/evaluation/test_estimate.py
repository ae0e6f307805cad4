"""Figures and their errors: the textbook's for a mean, paired for two models, and right for ratios, by resampling."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kept.evaluation.estimate import (
    average,
    difference,
    exponential,
    jackknife,
    mean,
    ratio,
)

if TYPE_CHECKING:
    from collections.abc import Callable

NUMBERS = st.lists(st.floats(-100, 100), min_size=2, max_size=20)


@given(NUMBERS)
def test_a_mean_has_the_textbook_s_error(values: list[float]) -> None:
    found = mean(values).figure
    assert found.value == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert found.error == pytest.approx(statistics.stdev(values) / math.sqrt(len(values)), abs=1e-9)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=2, max_size=20))
def test_two_models_are_paired(pairs: list[tuple[float, float]]) -> None:
    first, other = ([*column] for column in zip(*pairs, strict=True))
    found, wanted = difference(mean(first), mean(other)), mean([b - a for a, b in pairs]).figure
    assert (found.value, found.error) == pytest.approx((wanted.value, wanted.error), abs=1e-9)


def test_paired_differences_have_smaller_errors() -> None:
    """Negative control: as independent samples the same figures differ by nothing that can be told."""
    first = [float(n % 7) for n in range(70)]
    other = [value + 0.01 for value in first]
    paired = difference(mean(first), mean(other))
    alone = difference(mean(first), mean(other[:-1]))
    assert paired.value == pytest.approx(0.01)
    assert paired.error < 1e-9
    assert alone.error > 0.3


def test_one_item_has_no_standard_error() -> None:
    assert math.isnan(mean([3.0]).figure.error)
    assert math.isnan(ratio([1.0], [0.0]).value)


def resampled(estimate: Callable[[torch.Tensor], Any], rows: torch.Tensor) -> float:
    """The spread of a figure over 4,000 draws of as many items."""
    random = torch.Generator().manual_seed(0)
    draws = torch.randint(len(rows), (4000, len(rows)), generator=random)
    return statistics.stdev(float(estimate(rows[draw])) for draw in draws)


def test_a_ratio_s_error_is_that_of_resampling() -> None:
    random = torch.Generator().manual_seed(1)
    weights = 1 + 9 * torch.rand(300, generator=random)
    values = weights * (2 + 0.3 * torch.randn(300, generator=random))
    rows = torch.stack((values, weights), dim=1)
    found = ratio(values.tolist(), weights.tolist())
    assert found.figure.error == pytest.approx(resampled(lambda r: r[:, 0].sum() / r[:, 1].sum(), rows), rel=0.05)
    wanted = resampled(lambda r: (r[:, 0].sum() / r[:, 1].sum()).exp(), rows)
    assert exponential(found).figure.error == pytest.approx(wanted, rel=0.05)


def test_the_jackknife_of_a_mean_is_the_mean() -> None:
    values = [0.5, 1.0, 4.0]
    found = jackknife(values, statistics.fmean, 10)
    assert found.value == mean(values).value
    assert found.influences == pytest.approx(mean(values).influences)
    assert math.isnan(jackknife(values, statistics.fmean, 2).figure.error)


def test_the_jackknife_of_macro_f1_is_that_of_resampling() -> None:
    random = torch.Generator().manual_seed(2)
    gold = torch.randint(2, (400,), generator=random)
    chosen = torch.where(torch.rand(400, generator=random) < 0.7, gold, 1 - gold)
    rows = torch.stack((gold, chosen), dim=1)

    def plain(r: torch.Tensor) -> float:
        return statistics.fmean(
            2 * float(((r[:, 0] == c) & (r[:, 1] == c)).sum()) / float((r[:, 0] == c).sum() + (r[:, 1] == c).sum())
            for c in (0, 1)
        )

    found = jackknife(rows.tolist(), lambda some: plain(torch.tensor(some)), 400)
    assert found.value == pytest.approx(plain(rows))
    assert found.figure.error == pytest.approx(resampled(plain, rows), rel=0.06)


def test_an_average_over_tasks_adds_variances() -> None:
    tasks = [mean([0.0, 1.0, 1.0, 0.0] * n) for n in (20, 30, 40)]
    found = average(tasks).figure
    wanted = math.sqrt(sum(task.figure.error**2 for task in tasks)) / 3
    assert (found.value, found.error) == pytest.approx((0.5, wanted), rel=0.02)


def test_a_weighted_average_is_the_mean_of_all_documents() -> None:
    first, other = [1.0, 0.0, 1.0], [0.0] * 7
    found = average([mean(first), mean(other)], [3, 7])
    assert found.value == pytest.approx(statistics.fmean(first + other))
