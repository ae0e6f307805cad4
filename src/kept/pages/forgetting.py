"""The section on learning and forgetting: a table by model, and a scatter plot of one against the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.evaluation.interval import Z
from kept.formatting import uncertain
from kept.output import forgetting_tables
from kept.pages.blocks import Block, Paragraph, Table
from kept.pages.charts import Mark, ScatterPlot
from kept.pages.estimates import items, listed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kept.evaluation.evaluation_data import EvaluationRow
    from kept.evaluation.forgetting import DomainsChange, Forgetting, MethodForgetting

MARKS = 24
"""Models that one picture has room for."""


def blocks(found: Forgetting, first: str, rows: Sequence[EvaluationRow]) -> tuple[Block, ...]:
    """Return tables and a chart. `first` is the model that the others are compared with; `rows` count the passages."""
    return tuple(_blocks(found, first, rows))


def _blocks(found: Forgetting, first: str, rows: Sequence[EvaluationRow]) -> Iterator[Block]:
    yield Paragraph(
        f"Each model against {first}, over the same passages{_passages(found, rows)}. Learned is how much less a "
        f"{found.unit} of a new domain costs, forgotten how much more a {found.unit} of an old one."
    )
    marks = tuple(mark for method in found.methods[:MARKS] for mark in _marks(method, found))
    if marks:
        yield _plane(found, first, marks)
    yield Table(
        f"By method, in nats per {found.unit}; ± is one standard error", *forgetting_tables.by_method(found), last=1
    )
    yield Table("Perplexity, before and after", *forgetting_tables.perplexities(found))


def _passages(found: Forgetting, rows: Sequence[EvaluationRow]) -> str:
    """Return how many passages each domain has, in parentheses; empty if the rows do not say."""
    counts = {row.name: row.items for row in rows if row.part == "text" and row.metric == "perplexity"}
    sides = (found.methods[0].learned, found.methods[0].forgot)
    names = [name for side in sides if side is not None for name in side.names if name in counts]
    known = [f"{items('text', counts[name])} of {name}" for name in names]
    return f" ({listed(known)})" if known else ""


def _marks(method: MethodForgetting, found: Forgetting) -> Iterator[Mark]:
    """Yield the mark of a model if there are old and new domains."""
    if method.learned is not None and method.forgot is not None:
        x, y = method.forgot.mean.per(found.unit), method.learned.mean.per(found.unit)
        yield Mark(method.model, x.value, y.value, (Z * x.error, Z * y.error))


def _plane(found: Forgetting, first: str, marks: tuple[Mark, ...]) -> ScatterPlot:
    x, y = f"forgotten, nats per {found.unit}", f"learned, nats per {found.unit}"
    said = "; ".join(
        f"{m.name}: {uncertain(m.y, m.errors[1] / Z)} and {uncertain(m.x, m.errors[0] / Z)}" for m in marks
    )
    left = f" The first {MARKS} of {len(found.methods)} models." if len(found.methods) > MARKS else ""
    caption = (
        f"Learned of {_named(found.methods[0].learned)} against forgotten of {_named(found.methods[0].forgot)}: higher "
        f"and further left is better.{left} Whiskers, where they are longer than the mark, are 95 % intervals."
    )
    return ScatterPlot(caption, f"{y}, and {x}: {said}.", x, y, first, marks)


def _named(side: DomainsChange | None) -> str:
    domains = () if side is None else side.domains
    return f"{', '.join(one.domain for one in domains)}{' (mean)' * (len(domains) > 1)}"
