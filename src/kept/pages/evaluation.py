"""The sections of the report about an evaluation: domains, positions, pass keys, agreement and tasks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TYPE_CHECKING

from kept.evaluation.evaluation_file import read
from kept.formatting import percent, uncertain
from kept.pages import forgetting
from kept.pages.blocks import (
    DRAWN,
    Bar,
    BarChart,
    Block,
    Curve,
    Fact,
    Heading,
    LineChart,
    Paragraph,
    Point,
    Shares,
    Table,
    TextPair,
    TextPairs,
)
from kept.pages.domains import matrix, relative

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from kept.evaluation.estimate import Figure
    from kept.evaluation.evaluation_data import EvaluationFile, EvaluationRow

    Texts = tuple[tuple[str, ...], ...]
    """The texts of one model: for each item its prompt and continuation, or its answers turn by turn."""

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
class EvaluationSections:
    """An evaluation as parts of a page: title, most important figures, all figures, and texts of the models.

    `forgetting`: what was learned and forgotten; empty if no domain is old or new.
    """

    title: str
    facts: tuple[Fact, ...]
    blocks: tuple[Block, ...]
    forgetting: tuple[Block, ...]
    pairs: tuple[tuple[str, TextPairs], ...]


def sections(file: Path) -> EvaluationSections:
    """Return the parts of a page about a file of `kept eval`.

    Raises InputError if the file does not exist, CheckpointError if it is something else.
    """
    found = read(file)
    who = tuple(model.name for model in found.models)
    rows = [row for row in found.rows if not row.detail]
    return EvaluationSections(
        title=_enumerated(who),
        facts=tuple(_facts(rows, who)),
        blocks=(Paragraph(_models_in_words(found)), *_blocks(rows, who)),
        forgetting=() if found.forgetting is None else forgetting.blocks(found.forgetting, who[0]),
        pairs=tuple(_pairs(found.texts, who)),
    )


def _facts(rows: Sequence[EvaluationRow], who: Sequence[str]) -> Iterator[Fact]:
    """Yield the relative change of perplexity of up to three domains, if two models are compared."""
    lost = [row for row in rows if row.part == "text" and row.metric == "perplexity" and len(who) == 2]
    return (Fact(f"{relative(row)[0].value:+.3g} %", f"perplexity, {row.name}") for row in lost[:3])


def _blocks(rows: Sequence[EvaluationRow], who: Sequence[str]) -> Iterator[Block]:
    for part, mine in groupby(rows, key=lambda row: row.part):
        yield Heading(TITLES.get(part, part))
        yield from PARTS.get(part, _tasks)([*mine], who)


def _pairs(texts: Mapping[str, tuple[Texts, ...]], who: Sequence[str]) -> Iterator[tuple[str, TextPairs]]:
    """Yield a title and some texts of the first model beside those of each other model."""
    for name, (source, *outputs) in texts.items():
        for other, output in zip(who[1:], outputs, strict=True):
            both = zip(source, output, strict=False)
            each = (pair for n, (ours, theirs) in enumerate(both, 1) for pair in _text_pairs(n, ours, theirs))
            title = name if len(who) == 2 else f"{name}, {other}"
            yield title, TextPairs((who[0], other), tuple(islice(each, SHOWN)))


def _text_pairs(n: int, ours: Sequence[str], theirs: Sequence[str]) -> Iterator[TextPair]:
    """Yield a prompt with two continuations, or the answers of two models to each turn of a question."""
    if ours[:1] == theirs[:1] and len(ours) == len(theirs) == 2:
        yield TextPair(_cut(ours[0]), _cut(ours[1]), _cut(theirs[1]))
        return
    for turn, (a, b) in enumerate(zip(ours, theirs, strict=False), 1):
        yield TextPair(f"[question {n}, turn {turn}] ", _cut(a), _cut(b))


def _cut(written: str) -> str:
    return written if len(written) <= LONGEST else f"{written[: LONGEST - 1]}…"


# ----------------------------------------------------------------------------------------------------------------- rows


def _models_in_words(found: EvaluationFile) -> str:
    """Return the models with family and dtype, and to what differences refer."""
    models = _enumerated([f"{one.name} ({one.family}, {one.dtype})" for one in found.models])
    which = "the second" if len(found.models) == 2 else "each"
    paired = f" Differences are of {which} to the first, on the same items, with their standard errors."
    return f"{models}.{paired if len(found.models) > 1 else ''}"


def _enumerated(names: Sequence[str]) -> str:
    """Return names joined by commas and `and`."""
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last


# ---------------------------------------------------------------------------------------------------------------- parts


def _texts(rows: Sequence[EvaluationRow], who: Sequence[str]) -> Iterator[Block]:
    perplexities = [row for row in rows if row.metric == "perplexity"]
    yield matrix(perplexities, who) if len(who) > 1 else _table("By domain", rows, who)
    if len(who) == 2:
        bars = tuple(_bar(row.name, relative(row)[0]) for row in perplexities)
        yield _bars("Change of perplexity by domain: lower is better.", "perplexity against before, %", bars)
    elif len(who) > 2:
        for row in perplexities:
            bars = tuple(_bar(*one) for one in zip(who[1:], relative(row), strict=True))
            yield _bars(
                f"{row.name}: change against {who[0]}, lower is better.",
                f"{row.name}: perplexity against before, %",
                bars,
            )
    else:
        bits = [row for row in rows if row.metric == "bits per byte"]
        yield _bars(
            "Bits per byte by domain: lower is better.",
            "bits per byte",
            tuple(_bar(row.name, row.models[0]) for row in bits),
        )


def _positions(rows: Sequence[EvaluationRow], who: Sequence[str]) -> Iterator[Block]:
    for name, group in groupby(rows, key=lambda row: row.name):
        places = [(_last(row.metric), row) for row in group]
        curves = tuple(
            Curve(
                model, tuple(Point(x, row.models[n].value, _known(row.models[n])) for x, row in places), _style(n, who)
            )
            for n, model in enumerate(who[:DRAWN])
        )
        ends = "; ".join(f"{c.name} from {c.points[0].y:.4g} to {c.points[-1].y:.4g}" for c in curves)
        which = f" The first {DRAWN} of {len(who)} models." if len(who) > DRAWN else ""
        caption = f"{name}: perplexity by position in the context.{which} Whiskers are one standard error."
        yield LineChart(
            caption, f"{name}: perplexity by position: {ends}.", "up to position", "perplexity", curves, log_x=True
        )


def _last(metric: str) -> int:
    """Return the end of a bucket from its metric, such as `at 1024 to 2048`."""
    return int(metric.rpartition(" ")[2])


def _style(n: int, who: Sequence[str]) -> int:
    """Return the style of a model; of two models, the source has the same style as in other charts."""
    return 1 - n if len(who) == 2 else n


def _known(figure: Figure) -> float:
    return figure.error if figure.error > 0 else 0.0


def _passkey(rows: Sequence[EvaluationRow], who: Sequence[str]) -> Iterator[Block]:
    for part in ("length", "depth"):
        found = [(match[1], row) for row in rows if (match := re.fullmatch(rf"at {part} (.+)", row.metric))]
        cells = [(model, tuple(row.models[n].value for _, row in found)) for n, model in enumerate(who)]
        columns = (f"by {part}", *(place for place, _ in found))
        yield Shares(
            "Tokens of text" if part == "length" else "Position of the key, 0 is the beginning", columns, tuple(cells)
        )


def _tasks(rows: Sequence[EvaluationRow], who: Sequence[str]) -> Iterator[Block]:
    """Yield tables and charts of tasks, and of metrics that compare two models."""
    compared = [row for row in rows if row.models]
    if compared:
        yield _table("By task", compared, who)
        yield from _tasks_apart(compared, who)
    together = [row for row in rows if row.agreements]
    if together:
        yield _together(together, who)


def _tasks_apart(rows: Sequence[EvaluationRow], who: Sequence[str]) -> Iterator[Block]:
    """Yield a chart of the differences of each model after the first."""
    for n, name in enumerate(who[1:]):
        bars = tuple(_bar(row.name, row.differences[n]) for row in rows)
        whose = f"{name}: " if len(who) > 2 else ""
        if any(bar.value or bar.error for bar in bars):
            lost = "change of each task."
            yield _bars(f"{whose}{lost}" if whose else lost.capitalize(), f"{whose}difference", bars)
        else:
            none = "no task differs."
            yield Paragraph(f"{whose}{none}" if whose else none.capitalize())


def _together(rows: Sequence[EvaluationRow], who: Sequence[str]) -> Table:
    several = len(who) > 2
    cells = tuple(
        (row.name, row.metric, *[name] * several, f"{row.items:,}", percent(one.value, one.error))
        for row in rows
        for name, one in zip(who[1:], row.agreements, strict=True)
        if one is not None
    )
    columns = ("task", "metric", *["model"] * several, "items", "share")
    caption = f"Agreement with {who[0]}" if several else "Agreement of both models"
    return Table(caption, columns, cells, 2 + several)


def _table(caption: str, rows: Sequence[EvaluationRow], who: Sequence[str]) -> Table:
    """Return a table with one column per model, or with one row per model if there are more than two."""
    if len(who) > 2:
        below = tuple(cells for row in rows for cells in _below(row, who))
        return Table(caption, ("task", "metric", "model", "items", "value", "difference"), below, 3)
    columns = ("task", "metric", "items", *who, *["difference"] * (len(who) == 2))
    return Table(caption, columns, tuple(_beside(row) for row in rows), 2)


def _beside(row: EvaluationRow) -> tuple[str, ...]:
    figures = [uncertain(one.value, one.error) for one in row.models]
    return (row.name, row.metric, f"{row.items:,}", *figures, *_apart(row))


def _below(row: EvaluationRow, who: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for name, one, apart in zip(who, row.models, ["", *_apart(row)], strict=True):
        yield (row.name, row.metric, name, f"{row.items:,}", uncertain(one.value, one.error), apart)


def _apart(row: EvaluationRow) -> list[str]:
    return [uncertain(one.value, one.error, signed=True) for one in row.differences]


def _bar(name: str, figure: Figure) -> Bar:
    return Bar(name, figure.value, figure.error)


def _bars(caption: str, x: str, bars: tuple[Bar, ...]) -> BarChart:
    said = "; ".join(f"{bar.name} {uncertain(bar.value, bar.error)}" for bar in bars)
    return BarChart(f"{caption} Whiskers are one standard error.", f"{x}: {said}.", x, bars)


PARTS: Mapping[str, Callable[[Sequence[EvaluationRow], Sequence[str]], Iterator[Block]]] = {
    "text": _texts,
    "positions": _positions,
    "passkey": _passkey,
}
"""Sections of measurements that are not suites of tasks."""
