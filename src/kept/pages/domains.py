"""Perplexities by domain and model: a table with the change of each against the first model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kept.evaluation.estimate import Figure
from kept.formatting import uncertain
from kept.pages.blocks import Matrix, MatrixCell

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kept.evaluation.evaluation_data import EvaluationRow


def matrix(rows: Sequence[EvaluationRow], who: Sequence[str]) -> Matrix:
    """Return perplexities by domain and model, with the change against the first model in percent."""
    cells = tuple((f"{row.name}, {row.items:,} passages", tuple(_cells(row))) for row in rows)
    caption = (
        f"Perplexity, and below it the change against {who[0]} in percent, with its standard error. "
        "A change of more than two standard errors is coloured."
    )
    return Matrix(caption, ("domain", *who), cells)


def _cells(row: EvaluationRow) -> Iterator[MatrixCell]:
    first, *others = row.models
    yield MatrixCell(uncertain(first.value, first.error))
    for one, apart in zip(others, relative(row), strict=True):
        clear = abs(apart.value) > 2 * apart.error
        tone = ("good" if apart.value < 0 else "bad") if clear else ""
        yield MatrixCell(uncertain(one.value, one.error), f"{uncertain(apart.value, apart.error, signed=True)} %", tone)


def relative(row: EvaluationRow) -> list[Figure]:
    """Return the differences of the models after the first, in percent of the first."""
    first, *others = row.models
    return [_in_percent(first, *pair) for pair in zip(others, row.differences, strict=True)]


def _in_percent(first: Figure, other: Figure, apart: Figure) -> Figure:
    """Return `other / first - 1` in percent. The covariance follows from the error of the paired difference `apart`."""
    common = (first.error**2 + other.error**2 - apart.error**2) / 2
    a, b = first.error / first.value, other.error / other.value
    spread = a * a + b * b - 2 * common / (first.value * other.value)
    return Figure(100 * apart.value / first.value, 100 * other.value / first.value * math.sqrt(max(spread, 0.0)))
