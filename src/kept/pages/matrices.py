"""Tables of a measurement by model: each figure, and its change against the first model."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kept.evaluation.estimate import Figure
from kept.pages.blocks import Matrix, MatrixCell, MatrixRow
from kept.pages.estimates import items, lower_is_better, written

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.evaluation.evaluation_data import EvaluationRow

COLOURED = "A change whose interval excludes zero is coloured: green is better, red is worse."


def perplexities(rows: Sequence[EvaluationRow], who: Sequence[str]) -> Matrix:
    """Return perplexities by domain and model, with the change against the first model in percent."""
    cells = [_row(row, row.name, [(one, " %") for one in relative(row)]) for row in rows]
    changes = f", and below it the change against {who[0]} in percent. {COLOURED}" if len(who) > 1 else "."
    return Matrix(f"Perplexity of each token{changes}", ("domain", *who), tuple(cells))


def tasks(rows: Sequence[EvaluationRow], who: Sequence[str]) -> Matrix:
    """Return the metrics of tasks by model, with the difference to the first model."""
    cells = [_row(row, task_name(row), [(one, "") for one in row.differences], row.metric) for row in rows]
    changes = f", and below it the difference to {who[0]}. {COLOURED}" if len(who) > 1 else "."
    return Matrix(f"Metric of each task{changes}", ("task", *who), tuple(cells))


def task_name(row: EvaluationRow) -> str:
    """Return the name of a task; an average is named by what it is of."""
    return f"{row.part}, {row.name}" if is_average(row) else row.name


def is_average(row: EvaluationRow) -> bool:
    """Return whether a row is the average of a part's tasks."""
    return row.name == "average"


def _row(row: EvaluationRow, name: str, changes: Sequence[tuple[Figure, str]], metric: str = "") -> MatrixRow:
    first, *others = row.models
    cells = [MatrixCell(written(first))]
    for one, (change, unit) in zip(others, changes, strict=True):
        words = f"{written(change, signed=True)}{unit}"
        cells.append(MatrixCell(written(one), words, _tone(change, lower=lower_is_better(row.metric))))
    return MatrixRow(name, f"{f'{metric}, ' if metric else ''}{items(row.part, row.items)}", tuple(cells))


def _tone(change: Figure, *, lower: bool) -> str:
    """Return "good" or "bad" for a change whose interval excludes zero; else nothing."""
    if not change.significant:
        return ""
    return "good" if (change.value < 0) == lower else "bad"


def relative(row: EvaluationRow) -> list[Figure]:
    """Return the differences of the models after the first, in percent of the first."""
    first, *others = row.models
    return [_in_percent(first, *pair) for pair in zip(others, row.differences, strict=True)]


def _in_percent(first: Figure, other: Figure, apart: Figure) -> Figure:
    """Return `other / first - 1` in percent. The covariance follows from the error of the paired difference `apart`.

    NaN for a value of zero. Squares are products, which are Inf where a power would raise OverflowError.
    """
    if not first.value or not other.value:
        return Figure(math.nan, math.nan)
    common = (first.error * first.error + other.error * other.error - apart.error * apart.error) / 2
    a, b = first.error / first.value, other.error / other.value
    spread = a * a + b * b - 2 * common / (first.value * other.value)
    return Figure(100 * apart.value / first.value, 100 * other.value / first.value * math.sqrt(max(spread, 0.0)))
