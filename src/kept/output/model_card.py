"""The model card: where an output came from, what was done, what was measured, and how it is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2

from kept.checkpoint.licences import licences, stated_licence
from kept.checkpoint.tokenizer_config import loader
from kept.errors import printable
from kept.formatting import kv_cache
from kept.output import heal_summary
from kept.output.lineage import LineageStep, healing, lineage, weaker
from kept.output.record import RecipeRecord, Record, SourceRecord, read_record
from kept.output.runtimes import notes
from kept.output.titles import title
from kept.output.verification_words import double_runs, equal_runs, figures, headline, tokens_of
from kept.output.write_record import history, new_parts, passes
from kept.passes import SUMMARIES

if TYPE_CHECKING:
    from pathlib import Path

    from kept.families.table import Family
    from kept.ir.program import Program
    from kept.ir.promise import Promise
    from kept.loaded import LoadedModel
    from kept.output.healed_record import HealedRecord
    from kept.output.record import PassRecord
    from kept.passes.plan import Plan
    from kept.verification.verify import Verification

RESTRICTED = {
    "orion": "Weights that descend from Orion-14B carry its community licence, whatever the licence of the code."
}
"""Families whose weights are known to have terms of their own."""


@dataclass(frozen=True)
class CardStep:
    """A pass that ran: its name, what it promised, and what it does."""

    name: str
    promise: Promise
    summary: str


@dataclass(frozen=True)
class Origin:
    """The provenance of an output.

    `title`: what it is (`kept.output.titles`). `steps`: passes of the conversion; None if none is known. `notes`:
    about other runtimes. `licensed`: directory of the source's licence files and card. `stock`: transformers has a
    class for the target. `carries_code`: the class is kept's own, and its code is among the files.
    `copies`: new layers that add nothing yet. `lineage`: all conversions and healings, oldest
    first, including this one. `new_tokens`: ids that the source did not have. `domain`: limits of the promise;
    empty if it has none. `quantised`: quantisation types of a GGUF source; empty for other sources. `config_notes`:
    remote code and unknown keys of the source's config.
    """

    name: str
    title: str
    family: str
    target: str
    steps: tuple[CardStep, ...] | None
    notes: tuple[str, ...]
    licensed: Path
    stock: bool = True
    carries_code: bool = False
    copies: tuple[int, ...] = ()
    lineage: tuple[LineageStep, ...] = ()
    new_tokens: range = range(0)
    domain: tuple[str, ...] = ()
    quantised: str = ""
    config_notes: tuple[str, ...] = ()


def converted(source: LoadedModel, family: Family, plan: Plan) -> Origin:
    """Return the origin of a plan's result."""
    record = Record(
        history=history(read_record(source.path)),
        source=SourceRecord(name=source.name, family=source.family.name),
        recipe=RecipeRecord(to=family.name),
        passes=passes(plan),
        domain=plan.domain,
        **new_parts(source, plan),
    )
    return Origin(
        name=source.name,
        title=title(record),
        family=source.family.name,
        target=family.name,
        steps=tuple(CardStep(step.rewrite.name, step.promise, step.rewrite.summary) for step in plan.steps),
        notes=tuple(map(str, notes(plan))),
        licensed=source.path,
        stock=family.stock,
        carries_code=family.carries_code,
        copies=plan.copies,
        lineage=lineage(record),
        new_tokens=plan.new_tokens,
        domain=plan.domain,
        quantised=source.quantised,
        config_notes=source.config_notes,
    )


def origin_of(opened: LoadedModel, record: Record | None) -> Origin:
    """Return the origin of an output by its record; without one of a conversion, the model itself."""
    if record is None or record.source is None or record.recipe is None:
        name, family = opened.name, opened.family.name
        done = () if record is None else lineage(record)
        return Origin(name, name, family, family, None, (), opened.path, lineage=done)
    return Origin(
        name=printable(record.source.name),
        title=printable(title(record)),
        family=printable(record.source.family),
        target=printable(record.target or ""),
        steps=tuple(_step(step) for step in record.passes or ()),
        notes=tuple(map(printable, record.runtimes)),
        licensed=opened.path,
        stock=opened.family.stock,
        carries_code=opened.family.carries_code,
        lineage=lineage(record),
        domain=tuple(map(printable, record.domain)),
        quantised=printable(record.source.quantised),
        config_notes=tuple(map(printable, record.source.notes)),
    )


def _step(step: PassRecord) -> CardStep:
    name = printable(step.name)
    return CardStep(name, step.promise, SUMMARIES.get(name, ""))


def model_card(
    origin: Origin,
    program: Program,
    promise: Promise,
    found: Verification | None,
    healed: HealedRecord | None = None,
) -> bytes:
    """The output's README.md. `healed` is the record of a healing."""
    families = (origin.family, *(one.family for one in origin.lineage))
    done = origin.lineage if healed is None else (*origin.lineage, healing(healed))
    weakest = weaker(done, promise)
    rendered = _template().render(
        origin=origin,
        spec=program.spec,
        kv_cache=kv_cache(program.kv_cache),
        promise=promise,
        found=found,
        healed=None if healed is None else _healed(healed),
        reference="the teacher" if healed is not None else "the source" if weakest is None else "its own source",
        lineage=done,
        weakest=weakest,
        loader=loader(origin.family, origin.target),
        headline=headline,
        double_runs=double_runs,
        equal_runs=equal_runs,
        figures=figures,
        tokens_of=tokens_of,
        licence=stated_licence(origin.licensed),
        licence_files=[*licences(origin.licensed)],
        restricted=next(filter(None, map(RESTRICTED.get, families)), None),
    )
    return rendered.encode()


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - Markdown from our own values
    )
    environment.filters["plain"] = plain
    environment.filters["capitalize_first"] = lambda words: words[:1].upper() + words[1:]
    return environment.from_string(files("kept").joinpath("templates/card.md.jinja").read_text(encoding="utf-8"))


MARKS = re.compile(r"[`|<>\[\]*\\&!#~]")
"""Characters with a meaning in Markdown: code, tables, links, emphasis, headings, HTML. Underscores are kept."""


def plain(words: object) -> str:
    """Return a name, path or licence from a file as one line without Markdown syntax or control characters."""
    return MARKS.sub("_", printable(str(words)))


def _healed(healed: HealedRecord) -> dict[str, Any]:
    """Return the values of the card's section on healing."""
    head, rows = heal_summary.held_out(healed)
    return {
        "settings": printable(heal_summary.settings_in_words(healed)),
        "result": heal_summary.result_in_words(healed),
        "head": ("held out", *head[1:]),
        "rows": rows,
        "unmeasured": heal_summary.unmeasured(healed),
    }
