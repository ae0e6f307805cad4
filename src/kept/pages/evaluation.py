"""The parts of the report about an evaluation: verdicts, figures, learning and forgetting, and texts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from kept.evaluation.evaluation_file import read
from kept.pages import evaluation_words, forgetting
from kept.pages.blocks import Block, Fact, Paragraph, TextPair, TextPairs
from kept.pages.estimates import items, listed, written
from kept.pages.evaluation_parts import blocks
from kept.pages.matrices import relative

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from kept.evaluation.evaluation_data import EvaluationRow

    Texts = tuple[tuple[str, ...], ...]
    """The texts of one model: for each item its prompt and continuation, or its answers turn by turn."""

SHOWN = 4
"""Texts of each kind that are shown; the file has all."""

LONGEST = 700
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class EvaluationSections:
    """An evaluation as parts of a page.

    `verdicts`: a sentence on each model after the first. `forgetting`: what was learned and forgotten; empty if no
    domain is old or new. `pairs`: texts of the models, with titles.
    """

    title: str
    verdicts: tuple[str, ...]
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
        title=listed(who),
        verdicts=tuple(evaluation_words.verdicts(found)),
        facts=tuple(_facts(rows, who)),
        blocks=(Paragraph(evaluation_words.models(found)), *blocks(rows, who)),
        forgetting=() if found.forgetting is None else forgetting.blocks(found.forgetting, who[0], rows),
        pairs=tuple(_pairs(found.texts, who)),
    )


def _facts(rows: Sequence[EvaluationRow], who: Sequence[str]) -> Iterator[Fact]:
    """Yield the relative change of perplexity of up to three domains, if two models are compared."""
    lost = [row for row in rows if row.part == "text" and row.metric == "perplexity" and len(who) == 2]
    for row in lost[:3]:
        yield Fact(
            f"{written(relative(row)[0], signed=True)} %", f"perplexity, {row.name} ({items('text', row.items)})"
        )


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
