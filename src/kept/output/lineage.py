"""The history of a model: every conversion and healing that its record lists, oldest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.errors import printable
from kept.formatting import singular
from kept.ir.promise import Promise
from kept.output import heal_summary
from kept.output.record import UnreadableRecord
from kept.passes.drop_layers import DropLayers
from kept.passes.expand_blocks import ExpandBlocks
from kept.passes.expand_vocabulary import ExpandVocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kept.output.healed_record import HealedRecord
    from kept.output.record import PastRecord, Record

GROWING = {ExpandBlocks.name, ExpandVocabulary.name, DropLayers.name}
"""Passes that are described by the layers and tokens that they add or remove."""


@dataclass(frozen=True)
class LineageStep:
    """One step of a model's history: a description, its promise, and the model and family it started from.

    `promise`: None if the record does not state it. `family`: empty if nothing was converted. `domain`: limits of the
    promise; empty if it has none.
    """

    description: str
    promise: Promise | None
    model: str = ""
    family: str = ""
    domain: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line."""
        holds = f", which holds {'; '.join(self.domain)}" if self.domain else ""
        return f"{self.description}; promise {self.promise or 'not known'}{holds}"


def lineage(record: Record) -> tuple[LineageStep, ...]:
    """Return every step in a record and its history, oldest first."""
    before: list[PastRecord | None] = [None, *record.history]
    return tuple(step for one, last in zip(record.chain, before, strict=True) for step in _steps(one, last))


def weaker(done: Sequence[LineageStep], promise: Promise) -> str | None:
    """Return the weakest promise of a lineage if it is weaker than this one, in words; None otherwise."""
    promises = [Promise.LOSSY if one.promise is None else one.promise for one in done]
    weakest = max(promises, key=lambda one: one.rank, default=promise)
    if weakest.rank <= promise.rank:
        return None
    return "not known" if any(one.promise is None for one in done) else str(weakest)


def healing(healed: HealedRecord) -> LineageStep:
    """Return the step of a healing."""
    settings = healed.settings
    teacher = settings.teacher or settings.teacher_cache
    who = "the texts alone" if teacher is None else teacher
    data = heal_summary.data_names(healed)
    said = f"healed on {data}: {settings.train} trained, {healed.trained_tokens:,} tokens, from {who}"
    student = "" if healed.student is None else healed.student.name
    return LineageStep(printable(said), Promise.LOSSY, printable(student))


def _steps(one: PastRecord, before: PastRecord | None) -> Iterator[LineageStep]:
    if isinstance(one, UnreadableRecord):
        yield LineageStep("a step that its record does not describe", None)
        return
    again = before is not None and one.healed is not None and before.healed is not None
    if one.converted and not (again and before is not None and one.same_conversion(before)):
        yield _conversion(one)
    if one.healed is not None:
        yield healing(one.healed)


def _conversion(one: PastRecord) -> LineageStep:
    assert one.source is not None, "it is a conversion"
    passes = one.passes or ()
    model, family = printable(one.source.name), printable(one.source.family)
    promise = max((step.promise for step in passes), key=lambda p: p.rank, default=Promise.EXACT)
    done = [*_size_changes(one)]
    others = ", ".join(step.name for step in passes if step.name not in GROWING)
    if one.target != one.source.family:
        done.append(f"converted to {one.target}" + (f" ({others})" if others else ""))
    elif others:
        done.append(f"rewritten ({others})")
    description = printable(f"{model} ({family}): {'; '.join(done) or 'nothing changed'}")
    return LineageStep(description, promise, model, family, tuple(map(printable, one.domain)))


def _size_changes(one: PastRecord) -> Iterator[str]:
    """Yield the layers and tokens that were added or removed. The last expansions in a record are its own passes'."""
    names = [step.name for step in one.passes or ()]
    blocks, tokens = names.count(ExpandBlocks.name), names.count(ExpandVocabulary.name)
    for expansion in one.expansions[-blocks:] if blocks else ():
        yield f"expanded by {_layers(expansion.layers)}"
    for grown in one.vocabularies[-tokens:] if tokens else ():
        yield "expanded by tokens" if grown.new is None else f"expanded by tokens {grown.new[0]} to {grown.new[1] - 1}"
    for step in one.passes or ():
        if step.name == DropLayers.name:
            yield f"shrunk by {_layers(step.options.get('layers', ()))}"


def _layers(layers: Sequence[object]) -> str:
    return f"{singular(len(layers), 'layers')} {', '.join(map(str, layers))}"
