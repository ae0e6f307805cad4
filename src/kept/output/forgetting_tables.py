"""Tables of what models learned and forgot, for the terminal and the report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.formatting import uncertain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.evaluation.forgetting import DomainChange, Forgetting, MethodForgetting

    Table = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]

NOTHING = "nothing"
"""Said of a model where no difference is beyond twice its standard error."""


def by_method(found: Forgetting) -> Table:
    """Columns and rows: each domain and the mean where there are several, then what is beyond doubt."""
    rows = ((one.model, *(cell for _, cell in _figures(one, found)), one.verdict or NOTHING) for one in found.methods)
    heads = (head for head, _ in _figures(found.methods[0], found))
    return ("method", *heads, "beyond two standard errors"), tuple(rows)


def by_domain(found: Forgetting) -> Table:
    """Columns and rows: a row for each domain and mean, a column for each model. Narrow with few models."""
    columns = ([*_figures(one, found)] for one in found.methods)
    rows = ((cells[0][0], *(cell for _, cell in cells)) for cells in zip(*columns, strict=True))
    return ("", *(one.model for one in found.methods)), tuple(rows)


def perplexities(found: Forgetting) -> Table:
    """Columns and rows: each domain's perplexity before and after."""
    rows = tuple((one.model, *(_arrow(change) for change in _changes(one))) for one in found.methods)
    return ("method", *(change.domain for change in _changes(found.methods[0]))), rows


def _figures(method: MethodForgetting, found: Forgetting) -> Iterator[tuple[str, str]]:
    """Heads and cells."""
    for word, side in (("learned", method.learned), ("forgot", method.forgot)):
        if side is None:
            continue
        named = [(change.domain, change.nats) for change in side.domains]
        for name, nats in [*named, *[("mean", side.mean)] * (len(named) > 1)]:
            figure = nats.per(found.unit)
            yield f"{word}: {name}", uncertain(figure.value, figure.error, signed=True)


def _changes(method: MethodForgetting) -> list[DomainChange]:
    return [change for side in (method.learned, method.forgot) if side for change in side.domains]


def _arrow(change: DomainChange) -> str:
    before, after = change.perplexity
    return " → ".join(f"{one:#.4g}".rstrip(".") for one in (before, after))
