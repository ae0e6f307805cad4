"""What an evaluation says of learning and forgetting: read from its data, and as tables to be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.evaluation.estimate import Figure
from kept.evaluation.forgetting import DomainChange, Forgetting, Method, Nats, Side
from kept.formatting import uncertain
from kept.json_values import listed, mapped, number, text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Found = Mapping[str, Any]
    Table = tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]

NOTHING = "nothing"
"""Said of a model where no difference is beyond twice its standard error."""


def read(found: Found) -> Forgetting:
    """What `kept eval --out` wrote. Raises ValueError, TypeError or LookupError where it is something else."""
    unit, methods = found["unit"], [_method(mapped(one)) for one in listed(found["methods"])]
    if unit not in ("token", "byte"):
        raise ValueError(f"{unit!r} is no unit")
    shapes = {tuple(_domains(side) for side in (one.learned, one.forgot)) for one in methods}
    if len(shapes) != 1:
        raise ValueError("models have the same domains")
    nats = [nats for one in methods for side in (one.learned, one.forgot) if side for nats in _nats_of(side)]
    if unit == "token" and any(one.token is None for one in nats):
        raise ValueError("tokens do not compare")
    return Forgetting(unit, tuple(methods))


def by_method(found: Forgetting) -> Table:
    """Columns and rows: each domain and the mean where there are several, then what is beyond doubt."""
    rows = ((one.model, *(cell for _, cell in _figures(one, found)), one.verdict or NOTHING) for one in found.methods)
    heads = (head for head, _ in _figures(found.methods[0], found))
    return ("method", *heads, "beyond two standard errors"), tuple(rows)


def perplexities(found: Forgetting) -> Table:
    """Columns and rows: each domain's perplexity before and after."""
    rows = tuple((one.model, *(_arrow(change) for change in _changes(one))) for one in found.methods)
    return ("method", *(change.domain for change in _changes(found.methods[0]))), rows


def _figures(method: Method, found: Forgetting) -> Iterator[tuple[str, str]]:
    """Heads and cells."""
    for word, side in (("learned", method.learned), ("forgot", method.forgot)):
        if side is None:
            continue
        named = [(change.domain, change.nats) for change in side.domains]
        for name, nats in [*named, *[("mean", side.mean)] * (len(named) > 1)]:
            figure = nats.a(found.unit)
            yield f"{word}: {name}", uncertain(figure.value, figure.error, signed=True)


def _changes(method: Method) -> list[DomainChange]:
    return [change for side in (method.learned, method.forgot) if side for change in side.domains]


def _arrow(change: DomainChange) -> str:
    before, after = change.perplexity
    return " → ".join(f"{one:#.4g}".rstrip(".") for one in (before, after))


# -------------------------------------------------------------------------------------------------------------- reading


def _method(found: Found) -> Method:
    learned, forgot = (None if found[key] is None else _side(mapped(found[key])) for key in ("learned", "forgot"))
    return Method(text(found["model"]), learned, forgot, text(found["verdict"]))


def _side(found: Found) -> Side:
    return Side(tuple(_change(mapped(one)) for one in listed(found["domains"])), _nats(mapped(found["mean"])))


def _change(found: Found) -> DomainChange:
    before, after = (number(one) for one in listed(found["perplexity"]))
    return DomainChange(text(found["domain"]), _nats(mapped(found["nats"])), (before, after))


def _nats(found: Found) -> Nats:
    return Nats(None if found["token"] is None else _figure(found["token"]), _figure(found["byte"]))


def _figure(found: Any) -> Figure:  # noqa: ANN401 - from a file
    return Figure(number(found["value"]), number(found["error"]))


def _domains(side: Side | None) -> tuple[str, ...] | None:
    return None if side is None else tuple(change.domain for change in side.domains)


def _nats_of(side: Side) -> tuple[Nats, ...]:
    return (side.mean, *(change.nats for change in side.domains))
