"""Output of `kept eval`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kept.cli.display.console import hint, make_table, printer
from kept.formatting import percent, uncertain, within

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console
    from rich.table import Table

    from kept.evaluation.estimate import Figure
    from kept.evaluation.evaluation_data import EvaluationRow
    from kept.evaluation.forgetting import Forgetting
    from kept.evaluation.run import Evaluation


def evaluation(found: Evaluation) -> None:
    """`kept eval`: main metrics, agreement, learning and forgetting; the details are in the JSON."""
    console = printer()
    for model in found.models:
        console.print(f"{model.name}: {model.family}, {model.dtype}")
    names = [model.name for model in found.models]
    shown = [row for row in found.rows if not row.detail]
    table = _beside(shown, names) if len(names) < 3 else _below(shown, names)
    if table.row_count:
        console.print(table)
    for row in shown:
        for name, share in zip(names[1:], row.agreements, strict=bool(row.agreements)):
            whose = f" in {name}" * (len(names) > 2)
            if share is not None:
                console.print(f"{_named(row)}: {row.metric}{whose} {percent(share.value, share.error)} of {row.items}")
    if found.forgetting is not None:
        _forgetting(console, found.forgetting, names[0])
    for row in filter(_too_few, shown):
        hint(f"{_named(row)}: too few passages for a figure ({row.items}); --text names a longer text")
    left = len(found.rows) - len(shown)
    more = [f"{left} more values"] * bool(left) + ["generated texts"] * bool(found.texts)
    if more:
        hint(f"{' and '.join(more)}: --json or --out FILE")


def _beside(rows: Sequence[EvaluationRow], names: Sequence[str]) -> Table:
    """One or two models in columns of their own."""
    table = make_table("task", "metric", "items", *names, *["difference"] * (len(names) > 1))
    for row in (row for row in rows if row.models):
        apart = [_figure(one, signed=True) for one in row.differences]
        table.add_row(_named(row), row.metric, str(row.items), *map(_figure, row.models), *apart)
    return table


def _below(rows: Sequence[EvaluationRow], names: Sequence[str]) -> Table:
    """More models below each other, each with its difference to the first."""
    table = make_table("task", "metric", "items", "model", "value", "difference")
    for row in (row for row in rows if row.models):
        heads = [(_named(row), row.metric, str(row.items)), *[("", "", "")] * (len(names) - 1)]
        apart = ["", *(_figure(one, signed=True) for one in row.differences)]
        for head, name, one, difference in zip(heads, names, row.models, apart, strict=True):
            table.add_row(*head, name, _figure(one), difference)
    return table


def _forgetting(console: Console, found: Forgetting, first: str) -> None:
    """Print the table of learning and forgetting by domain, and a verdict on each model."""
    from kept.output import forgetting_tables

    columns, rows = forgetting_tables.by_domain(found)
    table = make_table(*columns)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    console.print(f"learned: decrease of the loss from {first}, nats per {found.unit}; forgot: increase")
    for one in found.methods:
        console.print(f"{one.model}: {one.verdict or forgetting_tables.NOTHING} (beyond two standard errors)")


def _too_few(row: EvaluationRow) -> bool:
    """Return whether the perplexity of a text is uncertain by half of its value or more, or has no error."""
    unsure = any(not one.error < one.value / 2 for one in row.models)
    return row.part == "text" and row.metric == "perplexity" and unsure


def _named(row: EvaluationRow) -> str:
    return row.part if row.name == row.part else f"{row.part}: {row.name}"


def _figure(found: Figure, *, signed: bool = False) -> str:
    """A number with its 95 % interval if it has one, else with its standard error."""
    if not math.isnan(found.low):
        return within(found.value, found.low, found.high, signed=signed)
    return uncertain(found.value, found.error, signed=signed)
