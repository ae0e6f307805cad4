"""What models learned of new domains and forgot of old ones: by method as a table, and one against the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.formatting import uncertain
from kept.output import forgetting_tables
from kept.pages.blocks import Block, Mark, Paragraph, ScatterPlot, Table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kept.evaluation.forgetting import Forgetting, Method, Side

MARKS = 24
"""Models that one picture has room for."""


def blocks(found: Mapping[str, Any], first: str) -> tuple[Block, ...]:
    """Tables and a picture; `first` is the model that the others are compared with.

    Raises ValueError, TypeError or LookupError where it is not what was written.
    """
    return tuple(_blocks(forgetting_tables.read(found), first))


def _blocks(found: Forgetting, first: str) -> Iterator[Block]:
    yield Paragraph(
        f"Each model against {first}, over the same passages: what a {found.unit} of a new domain costs less is "
        f"learned, what a {found.unit} of an old one costs more is forgotten. With standard errors."
    )
    yield Table(f"By method, nats a {found.unit}", *forgetting_tables.by_method(found), last=1)
    yield Table("Perplexity, before and after", *forgetting_tables.perplexities(found))
    marks = tuple(mark for method in found.methods[:MARKS] for mark in _marks(method, found))
    if marks:
        yield _plane(found, first, marks)


def _marks(method: Method, found: Forgetting) -> Iterator[Mark]:
    """Where a model stands, if there are old domains and new ones."""
    if method.learned is not None and method.forgot is not None:
        x, y = method.forgot.mean.a(found.unit), method.learned.mean.a(found.unit)
        yield Mark(method.model, x.value, y.value, (x.error, y.error))


def _plane(found: Forgetting, first: str, marks: tuple[Mark, ...]) -> ScatterPlot:
    x, y = f"forgotten, nats a {found.unit}", f"learned, nats a {found.unit}"
    said = "; ".join(f"{m.name}: {uncertain(m.y, m.errors[1])} and {uncertain(m.x, m.errors[0])}" for m in marks)
    left = f" The first {MARKS} of {len(found.methods)} models." if len(found.methods) > MARKS else ""
    caption = (
        f"Learned of {_named(found.methods[0].learned)} against forgotten of {_named(found.methods[0].forgot)}: higher "
        f"and further left is better.{left} Whiskers, where they are longer than the mark, are one standard error."
    )
    return ScatterPlot(caption, f"{y}, and {x}: {said}.", x, y, first, marks)


def _named(side: Side | None) -> str:
    domains = () if side is None else side.domains
    return f"{', '.join(one.domain for one in domains)}{' (mean)' * (len(domains) > 1)}"
