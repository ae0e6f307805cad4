"""The figures of an evaluation, part by part: texts, positions, pass keys, agreement and tasks."""

from __future__ import annotations

import re
from itertools import groupby
from typing import TYPE_CHECKING

from kept.pages import matrices
from kept.pages.blocks import Block, Heading, Paragraph, Share, Shares, Table
from kept.pages.charts import DRAWN, Curve, IntervalChart, IntervalRow, LineChart, Point
from kept.pages.estimates import bounds, interval, items, items_each, lower_is_better, share, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kept.evaluation.estimate import Figure
    from kept.evaluation.evaluation_data import EvaluationRow

    Rows = Sequence[EvaluationRow]
    Names = Sequence[str]

TITLES = {
    "text": "Perplexity by domain",
    "positions": "Perplexity by position",
    "passkey": "Pass keys found in long texts",
    "agreement": "Greedy agreement",
    "mt-bench": "MT-Bench",
}

TASKS = "Tasks"
"""Title of all parts that have none of their own."""

WHISKERS = "Whiskers are 95 % intervals"


def blocks(rows: Rows, who: Names) -> Iterator[Block]:
    """Yield the figures of each part under its title; all tasks are one part."""
    for title, mine in groupby(rows, key=lambda row: TITLES.get(row.part, TASKS)):
        yield Heading(title)
        yield from PARTS.get(title, _tasks)([*mine], who)


def _texts(rows: Rows, who: Names) -> Iterator[Block]:
    found = [row for row in rows if row.metric == "perplexity"]
    yield matrices.perplexities(found, who)
    if len(who) > 1:
        caption = f"Change of perplexity against {who[0]}: further left is better."
        changes = [(row.name, matrices.relative(row)) for row in found]
        yield _differences(caption, f"perplexity against {who[0]}, %", who, changes)
        return
    bits = [(row.name, row.models) for row in rows if row.metric == "bits per byte"]
    if bits:
        yield _intervals("Bits per byte by domain: further left is better.", "bits per byte", who, bits)


def _positions(rows: Rows, who: Names) -> Iterator[Block]:
    for name, group in groupby(rows, key=lambda row: row.name):
        places = [(_last(row.metric), row) for row in group]
        curves = tuple(
            Curve(model, tuple(_point(x, row.models[n]) for x, row in places), _style(n, who))
            for n, model in enumerate(who[:DRAWN])
        )
        ends = "; ".join(f"{c.name} from {c.points[0].y:.4g} to {c.points[-1].y:.4g}" for c in curves)
        caption = f"{name}: perplexity by position in the context.{_drawn(who)} {WHISKERS}."
        summary = f"{name}: perplexity by position: {ends}."
        yield LineChart(caption, summary, "up to position", "perplexity", curves, log_x=True)


def _last(metric: str) -> int:
    """Return the end of a bucket from its metric, such as `at 1024 to 2048`."""
    return int(metric.rpartition(" ")[2])


def _point(x: float, figure: Figure) -> Point:
    found = interval(figure)
    return Point(x, found.value, (found.high - found.low) / 2)


def _style(n: int, who: Names) -> int:
    """Return the style of a model; of two models, the source has the same style as in other charts."""
    return 1 - n if len(who) == 2 else n


def _drawn(names: Names) -> str:
    return f" The first {DRAWN} of {len(names)} models." if len(names) > DRAWN else ""


def _passkey(rows: Rows, who: Names) -> Iterator[Block]:
    for part in ("length", "depth"):
        found = [(match[1], row) for row in rows if (match := re.fullmatch(rf"at {part} (.+)", row.metric))]
        if not found:
            continue
        cells = [
            (model, tuple(Share(row.models[n].value, bounds(row.models[n])) for _, row in found))
            for n, model in enumerate(who)
        ]
        columns = (f"by {part}", *(place for place, _ in found))
        axis = "tokens of text" if part == "length" else "position of the key, where 0 is the beginning"
        trials = items_each("passkey", [row.items for _, row in found])
        yield Shares(f"Pass keys found, by {axis}; {trials}, with 95 % intervals", columns, tuple(cells))


def _tasks(rows: Rows, who: Names) -> Iterator[Block]:
    """Yield a table and a chart of tasks, and a table of metrics that compare two models."""
    compared = [row for row in rows if row.models]
    if compared:
        yield matrices.tasks(compared, who)
        yield from _task_differences(compared, who)
    together = [row for row in rows if row.agreements]
    if together:
        yield _together(together, who)


def _task_differences(rows: Rows, who: Names) -> Iterator[Block]:
    """Yield a chart of the differences to the first model, in metrics that are better if they are higher."""
    names = [matrices.task_name(row) for row in rows]
    changes = [
        (f"{name}, {row.metric}" if names.count(name) > 1 else name, row.differences)
        for name, row in zip(names, rows, strict=True)
        if not lower_is_better(row.metric)
    ]
    if any(one.value or one.error for _, figures in changes for one in figures):
        caption = f"Difference of each task to {who[0]}: further right is better."
        yield _differences(caption, f"difference to {who[0]}", who, changes)
    elif changes and len(who) > 1:
        yield Paragraph("No task differs.")


def _differences(caption: str, x: str, who: Names, changes: Sequence[tuple[str, Sequence[Figure]]]) -> IntervalChart:
    """Return a chart of differences of the models after the first."""
    return _intervals(f"{caption}{_drawn(who[1:])}", x, who[1:], changes, differences=True)


def _intervals(
    caption: str, x: str, who: Names, changes: Sequence[tuple[str, Sequence[Figure]]], *, differences: bool = False
) -> IntervalChart:
    names = tuple(who[:DRAWN])
    rows = tuple(IntervalRow(name, tuple(map(interval, figures[:DRAWN]))) for name, figures in changes)
    hollow = "; where they include zero, the mark is hollow" if differences else ""
    read = [_said(n, changes, signed=differences) for n in range(len(names))]
    said = (f"{model}: {words}" if len(names) > 1 else words for model, words in zip(names, read, strict=True))
    return IntervalChart(f"{caption} {WHISKERS}{hollow}.", f"{x}: {'. '.join(said)}.", x, names, rows, differences)


def _said(n: int, changes: Sequence[tuple[str, Sequence[Figure]]], *, signed: bool) -> str:
    """Return the figures of a model in words."""
    return "; ".join(f"{name} {written(figures[n], signed=signed)}" for name, figures in changes)


def _together(rows: Rows, who: Names) -> Table:
    several = len(who) > 2
    cells = tuple(
        (row.name, row.metric, *[name] * several, _compared_items(row), share(one))
        for row in rows
        for name, one in zip(who[1:], row.agreements, strict=True)
        if one is not None
    )
    columns = ("task", "metric", *["model"] * several, "items", "share")
    caption = f"Agreement with {who[0]}" if several else "Agreement of both models"
    return Table(f"{caption}, with 95 % intervals", columns, cells, 2 + several)


def _compared_items(row: EvaluationRow) -> str:
    """Return how many prompts, tokens or questions two models were compared on."""
    return f"{row.items:,} tokens" if "token" in row.metric else items(row.part, row.items)


PARTS: Mapping[str, Callable[[Rows, Names], Iterator[Block]]] = {
    TITLES["text"]: _texts,
    TITLES["positions"]: _positions,
    TITLES["passkey"]: _passkey,
}
"""Parts that are not suites of tasks, by title."""
