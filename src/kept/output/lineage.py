"""The whole way of a model: what its record, and those before it, tell was done, oldest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.errors import printable
from kept.formatting import singular
from kept.ir.promise import Promise
from kept.json_values import listed, mapped, text, whole
from kept.output import heal_summary
from kept.output.record import domain, target
from kept.passes.drop_layers import DropLayers
from kept.passes.expand_blocks import ExpandBlocks
from kept.passes.expand_vocabulary import ExpandVocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Record = Mapping[str, Any]

GROWING = {ExpandBlocks.name, ExpandVocabulary.name, DropLayers.name}
"""Passes that are told of in words of their own."""

CONVERSION = ("source", "recipe", "passes")
"""What a record says of the conversion; one of a model that is healed again repeats it."""


@dataclass(frozen=True)
class LineageStep:
    """One step of a model's history: a description, its promise, and the model and family it started from.

    `promise`: None if the record does not state it. `family`: empty if nothing was converted. `domain`: limits of the
    promise; empty if it has none.
    """

    said: str
    promise: Promise | None
    model: str = ""
    family: str = ""
    domain: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line."""
        holds = f", which holds {'; '.join(self.domain)}" if self.domain else ""
        return f"{self.said}; promise {self.promise or 'not known'}{holds}"


def lineage(record: Record) -> tuple[LineageStep, ...]:
    """All that was done, by a record. Anyone may have edited it, and what it does not tell is said to be so."""
    told = record.get("history")
    done: list[LineageStep] = []
    before: Record = {}
    for one in (*(told if isinstance(told, list) else ()), record):
        try:
            done += [*_done(mapped(one), before)]
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            done.append(LineageStep("something that its record does not tell", None))
        before = one if isinstance(one, dict) else {}
    return tuple(done)


def weaker(done: Sequence[LineageStep], promise: Promise) -> str | None:
    """The weakest promise of a way, where it is weaker than this one; None where it is not."""
    promises = [Promise.LOSSY if one.promise is None else one.promise for one in done]
    weakest = max(promises, key=lambda one: one.rank, default=promise)
    if weakest.rank <= promise.rank:
        return None
    return "not known" if any(one.promise is None for one in done) else str(weakest)


def healing(table: Record) -> LineageStep:
    """What healing did, by what a record says of it."""
    settings, (_, best) = mapped(table["settings"]), heal_summary.ends(heal_summary.measurements(table))
    teacher = settings["teacher"] or settings.get("teacher_cache")
    who = "the texts alone" if teacher is None else text(teacher)
    said = f"healed on {heal_summary.heard(table)}: {text(settings['train'])} learned, {whole(best['tokens']):,} tokens"
    student = mapped(table.get("student", {})).get("name", "")
    return LineageStep(printable(f"{said}, from {who}"), Promise.LOSSY, printable(text(student)))


def _done(one: Record, before: Record) -> Iterator[LineageStep]:
    again = "healed" in one and "healed" in before
    repeated = again and all(one.get(key) == before.get(key) for key in CONVERSION)
    if {*CONVERSION} <= one.keys() and not repeated:
        yield _conversion(one)
    if "healed" in one:
        yield healing(mapped(one["healed"]))


def _conversion(one: Record) -> LineageStep:
    model, family = (printable(text(one["source"][key])) for key in ("name", "family"))
    passes = [mapped(step) for step in listed(one["passes"])]
    promise = max((Promise(text(step["promise"])) for step in passes), key=lambda p: p.rank, default=Promise.EXACT)
    said = [*_grown(one, passes)]
    others = ", ".join(text(step["name"]) for step in passes if step["name"] not in GROWING)
    if (to := target(one)) != family:
        said.append(f"converted to {to}" + (f" ({others})" if others else ""))
    elif others:
        said.append(f"rewritten ({others})")
    told = printable(f"{model} ({family}): {'; '.join(said) or 'nothing changed'}")
    return LineageStep(told, promise, model, family, domain(one))


def _grown(one: Record, passes: Sequence[Record]) -> Iterator[str]:
    """What came and what went: layers and tokens. The last expansions that a record lists are its own passes'."""
    names = [step["name"] for step in passes]
    own = {"expansions": names.count(ExpandBlocks.name), "vocabularies": names.count(ExpandVocabulary.name)}
    for found in listed(one["expansions"])[-own["expansions"] :] if own["expansions"] else ():
        yield f"expanded by {_layers(found['layers'])}"
    for found in listed(one["vocabularies"])[-own["vocabularies"] :] if own["vocabularies"] else ():
        first, end = map(whole, found["new"])
        yield f"expanded by tokens {first} to {end - 1}"
    for step in passes:
        if step["name"] == DropLayers.name:
            yield f"shrunk by {_layers(step['options']['layers'])}"


def _layers(layers: object) -> str:
    numbers = [str(whole(layer)) for layer in listed(layers)]
    return f"{singular(len(numbers), 'layers')} {', '.join(numbers)}"
