"""What `kept eval` measured: domains, positions, pass keys, agreement and tasks, of one model or of two."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

from kept.checkpoint.reader import read_json
from kept.evaluation.estimate import Figure
from kept.numbers import uncertain
from kept.pages.blocks import Bar, Bars, Block, Curve, Fact, Heading, Lines, Pair, Pairs, Point, Shares, Table, Words
from kept.stated import blamed, listed, mapped, number, text, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    Found = Mapping[str, Any]

SHOWN = 4
"""Texts of each kind that are shown; the file has all."""

LONGEST = 700
"""Characters of a text that are shown."""

TITLES = {
    "text": "Perplexity by domain",
    "positions": "Perplexity by position",
    "passkey": "Pass keys found in long texts",
    "agreement": "Greedy agreement",
    "mt-bench": "MT-Bench",
}


@dataclass(frozen=True)
class Row:
    """One metric: a figure for each model, and what two differ by; or one figure of how far two agree."""

    part: str
    name: str
    metric: str
    items: int
    models: tuple[Figure, ...]
    difference: Figure | None
    agreement: Figure | None


@dataclass(frozen=True)
class Evaluated:
    """An evaluation as parts of a page: its title, what counts most, everything, and what two models wrote."""

    title: str
    facts: tuple[Fact, ...]
    blocks: tuple[Block, ...]
    pairs: tuple[tuple[str, Pairs], ...]


def read(file: Path) -> Evaluated:
    """What is in a file of `kept eval`. Raises CheckpointError for one that is damaged."""
    found = read_json(file)
    with blamed(file, "the evaluation", "make it again with kept eval --out"):
        who = tuple(text(mapped(model)["name"]) for model in listed(found["models"]))
        rows = [_row(row) for row in map(mapped, listed(found["rows"])) if not row["detail"]]
        blocks = (Words(_described(found)), *_blocks(rows, who))
        return Evaluated(" and ".join(who), tuple(_facts(rows)), blocks, tuple(_pairs(mapped(found["texts"]), who)))


def _facts(rows: Sequence[Row]) -> Iterator[Fact]:
    """How much perplexity each domain lost, of up to three."""
    lost = [row for row in rows if row.part == "text" and row.metric == "perplexity" and row.difference]
    return (Fact(f"{_relative(row).value:+.3g} %", f"perplexity, {row.name}") for row in lost[:3])


def _blocks(rows: Sequence[Row], who: Sequence[str]) -> Iterator[Block]:
    for part, mine in groupby(rows, key=lambda row: row.part):
        yield Heading(TITLES.get(part, part))
        yield from PARTS.get(part, _tasks)([*mine], who)


def _pairs(texts: Found, who: Sequence[str]) -> Iterator[tuple[str, Pairs]]:
    """What two models wrote: a title, and some of the texts side by side."""
    for name, both in texts.items() if len(who) == 2 else ():
        source, output = (listed(one) for one in listed(both))
        each = (pair for n, two in enumerate(zip(source, output, strict=True), 1) for pair in _written(n, *two))
        yield name, Pairs((who[0], who[1]), tuple(islice(each, SHOWN)))


def _written(n: int, source: object, output: object) -> Iterator[Pair]:
    """A prompt with two continuations, or the answers of two models to the turns of one question."""
    ours, theirs = [text(one) for one in listed(source)], [text(one) for one in listed(output)]
    if ours[:1] == theirs[:1] and len(ours) == 2:
        yield Pair(_cut(ours[0]), _cut(ours[1]), _cut(theirs[1]))
        return
    for turn, (a, b) in enumerate(zip(ours, theirs, strict=True), 1):
        yield Pair(f"[question {n}, turn {turn}] ", _cut(a), _cut(b))


def _cut(written: str) -> str:
    return written if len(written) <= LONGEST else f"{written[: LONGEST - 1]}…"


# ----------------------------------------------------------------------------------------------------------------- rows


def _row(row: Found) -> Row:
    return Row(
        text(row["part"]),
        text(row["name"]),
        text(row["metric"]),
        whole(row["items"]),
        tuple(_figure(one) for one in listed(row["models"])),
        None if row["difference"] is None else _figure(row["difference"]),
        None if row["agreement"] is None else _figure(row["agreement"]),
    )


def _figure(value: Any) -> Figure:  # noqa: ANN401 - from a file
    return Figure(number(value["value"]), number(value["error"]))


def _described(found: Found) -> str:
    """Which models, in which dtype."""
    models = [mapped(model) for model in listed(found["models"])]
    said = " and ".join(f"{text(m['name'])} ({text(m['family'])}, {text(m['dtype'])})" for m in models)
    paired = " Differences are of the second to the first, on the same items, with their standard errors."
    return f"{said}.{paired if len(models) == 2 else ''}"


# ---------------------------------------------------------------------------------------------------------------- parts


def _texts(rows: Sequence[Row], who: Sequence[str]) -> Iterator[Block]:
    yield _table("By domain", rows, who)
    perplexities = [row for row in rows if row.metric == "perplexity"]
    if len(who) == 2:
        bars = tuple(_bar(row.name, _relative(row)) for row in perplexities)
        yield _bars("What each domain lost: zero is as good as before.", "perplexity against before, %", bars)
    else:
        bits = [row for row in rows if row.metric == "bits per byte"]
        yield _bars("What each domain costs.", "bits per byte", tuple(_bar(row.name, row.models[0]) for row in bits))


def _relative(row: Row) -> Figure:
    """What two models differ by, in percent of the first."""
    assert row.difference is not None
    scale = 100 / row.models[0].value
    return Figure(scale * row.difference.value, scale * row.difference.error)


def _positions(rows: Sequence[Row], who: Sequence[str]) -> Iterator[Block]:
    for name, group in groupby(rows, key=lambda row: row.name):
        places = [(_last(row.metric), row) for row in group]
        curves = tuple(
            Curve(
                model, tuple(Point(x, row.models[n].value, _known(row.models[n])) for x, row in places), _style(n, who)
            )
            for n, model in enumerate(who)
        )
        ends = "; ".join(f"{c.name} from {c.points[0].y:.4g} to {c.points[-1].y:.4g}" for c in curves)
        caption = f"{name}: what a token costs by where it stands. Whiskers are one standard error."
        yield Lines(
            caption, f"{name}: perplexity by position: {ends}.", "up to position", "perplexity", curves, log_x=True
        )


def _last(metric: str) -> int:
    """Where a bucket ends: `at 1024 to 2048`."""
    return int(metric.rpartition(" ")[2])


def _style(n: int, who: Sequence[str]) -> int:
    """The source is drawn as it is elsewhere on the page."""
    return 1 - n if len(who) == 2 else n


def _known(figure: Figure) -> float:
    return figure.error if figure.error > 0 else 0.0


def _passkey(rows: Sequence[Row], who: Sequence[str]) -> Iterator[Block]:
    for part in ("length", "depth"):
        found = [(match[1], row) for row in rows if (match := re.fullmatch(rf"at {part} (.+)", row.metric))]
        cells = [(model, tuple(row.models[n].value for _, row in found)) for n, model in enumerate(who)]
        columns = (f"by {part}", *(place for place, _ in found))
        yield Shares(
            "Tokens of text" if part == "length" else "Where the key is said, 0 is the beginning", columns, tuple(cells)
        )


def _tasks(rows: Sequence[Row], who: Sequence[str]) -> Iterator[Block]:
    """Tasks, and whatever else has a figure for each model or for both."""
    compared = [row for row in rows if row.agreement is None]
    if compared:
        yield _table("By task", compared, who)
    if compared and len(who) == 2:
        bars = tuple(_bar(row.name, row.difference) for row in compared if row.difference is not None)
        if any(bar.value or bar.error for bar in bars):
            yield _bars("What each task lost or won: zero is as good as before.", "difference", bars)
        else:
            yield Words("No answer counts otherwise: no task differs.")
    together = [row for row in rows if row.agreement is not None]
    if together:
        yield _together(together)


def _together(rows: Sequence[Row]) -> Table:
    cells = tuple(
        (row.name, row.metric, f"{row.items:,}", uncertain(row.agreement.value, row.agreement.error))
        for row in rows
        if row.agreement is not None
    )
    return Table("How far both say the same, as a share", ("what", "metric", "items", "share"), cells, 2)


def _table(caption: str, rows: Sequence[Row], who: Sequence[str]) -> Table:
    columns = ("what", "metric", "items", *who, *["difference"] * (len(who) == 2))
    return Table(caption, columns, tuple(_cells(row) for row in rows), 2)


def _cells(row: Row) -> tuple[str, ...]:
    figures = [uncertain(one.value, one.error) for one in row.models]
    apart = [] if row.difference is None else [uncertain(row.difference.value, row.difference.error, signed=True)]
    return (row.name, row.metric, f"{row.items:,}", *figures, *apart)


def _bar(name: str, figure: Figure) -> Bar:
    return Bar(name, figure.value, figure.error)


def _bars(caption: str, x: str, bars: tuple[Bar, ...]) -> Bars:
    said = "; ".join(f"{bar.name} {uncertain(bar.value, bar.error)}" for bar in bars)
    return Bars(f"{caption} Whiskers are one standard error.", f"{x}: {said}.", x, bars)


PARTS: Mapping[str, Callable[[Sequence[Row], Sequence[str]], Iterator[Block]]] = {
    "text": _texts,
    "positions": _positions,
    "passkey": _passkey,
}
"""What is not a suite of tasks."""
