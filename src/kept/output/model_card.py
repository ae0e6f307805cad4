"""The model card: where an output came from, what was done, what was measured, and how it is loaded."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import jinja2

from kept.checkpoint.licences import licences, stated_licence
from kept.checkpoint.tokenizer_config import loader
from kept.errors import printable
from kept.formatting import article
from kept.ir.promise import Promise
from kept.json_values import listed, mapped, text
from kept.output import heal_summary as healings
from kept.output.lineage import LineageStep, healing, lineage, weaker
from kept.output.record import domain, history, new, passes, recorded, target
from kept.output.runtimes import notes
from kept.passes import PASSES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kept.families.table import Family
    from kept.ir.spec import Spec
    from kept.loaded import LoadedModel
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

    `steps`: passes of the conversion; None if none is known. `notes`: about other runtimes. `licensed`: directory of
    the source's licence files and card. `stock`: transformers has a class for the target. `copies`: new layers that add
    nothing yet. `lineage`: all conversions and healings, oldest first, including this one. `new_tokens`: ids that the
    source did not have. `domain`: limits of the promise; empty if it has none. `quantised`: quantisation types of a
    GGUF source; empty for other sources. `config_notes`: remote code and unknown keys of the source's config.
    """

    name: str
    family: str
    target: str
    steps: tuple[CardStep, ...] | None
    notes: tuple[str, ...]
    licensed: Path
    stock: bool = True
    copies: tuple[int, ...] = ()
    lineage: tuple[LineageStep, ...] = ()
    new_tokens: range = range(0)
    domain: tuple[str, ...] = ()
    quantised: str = ""
    config_notes: tuple[str, ...] = ()


def converted(source: LoadedModel, family: Family, plan: Plan) -> Origin:
    """The origin of a plan's result."""
    steps = tuple(CardStep(step.rewrite.name, step.promise, step.rewrite.summary) for step in plan.steps)
    told = tuple(map(str, notes(plan)))
    names = source.name, source.family.name, family.name
    done = lineage(
        {
            **history(recorded(source)),
            "source": {"name": source.name, "family": source.family.name},
            "recipe": {"to": family.name},
            "passes": passes(plan),
            "domain": [*plan.domain],
            **new(source, plan),
        }
    )
    return Origin(
        *names,
        steps,
        told,
        source.path,
        family.stock,
        plan.copies,
        done,
        plan.new_tokens,
        plan.domain,
        source.quantised,
        source.config_notes,
    )


def origin_of(opened: LoadedModel, record: Mapping[str, Any]) -> Origin:
    """The origin of an output by its record, and without one of a conversion, the model itself.

    Raises LookupError, TypeError or ValueError if the record is malformed (see `kept.json_values.blamed`).
    """
    if not {"source", "recipe"} <= record.keys():
        return Origin(
            opened.name, opened.family.name, opened.family.name, None, (), opened.path, lineage=lineage(record)
        )
    return Origin(
        printable(text(record["source"]["name"])),
        printable(text(record["source"]["family"])),
        printable(target(record)),
        tuple(_step(mapped(step)) for step in listed(record["passes"])),
        tuple(printable(text(note)) for note in listed(record["runtimes"])),
        opened.path,
        opened.family.stock,
        lineage=lineage(record),
        domain=domain(record),
        quantised=printable(text(record["source"].get("quantised", ""))),
        config_notes=tuple(printable(text(note)) for note in listed(record["source"].get("notes", []))),
    )


def _step(step: Mapping[str, Any]) -> CardStep:
    name = printable(text(step["name"]))
    return CardStep(name, Promise(text(step["promise"])), PASSES[name].summary if name in PASSES else "")


def model_card(
    origin: Origin,
    spec: Spec,
    promise: Promise,
    found: Verification | None,
    healed: Mapping[str, Any] | None = None,
) -> bytes:
    """The output's README.md. `healed` is what the record says of healing, where that was done."""
    template = files("kept").joinpath("templates/card.md.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701 - Markdown from our own values
    )
    environment.filters["plain"] = plain
    families = (origin.family, *(one.family for one in origin.lineage))
    done = origin.lineage if healed is None else (*origin.lineage, healing(healed))
    weakest = weaker(done, promise)
    rendered = environment.from_string(template).render(
        origin=origin,
        article=article,
        spec=spec,
        promise=promise,
        found=found,
        healed=None if healed is None else _healed(healed),
        reference="the teacher" if healed is not None else "the source" if weakest is None else "its own source",
        lineage=done,
        weakest=weakest,
        loader=loader(origin.family, origin.target),
        licence=stated_licence(origin.licensed),
        licence_files=[*licences(origin.licensed)],
        restricted=next(filter(None, map(RESTRICTED.get, families)), None),
    )
    return rendered.encode()


MARKS = re.compile(r"[`|<>\[\]*\\&!#~]")
"""Characters with a meaning in Markdown: code, tables, links, emphasis, headings, HTML. Underscores are kept."""


def plain(words: object) -> str:
    """Return a name, path or licence from a file as one line without Markdown syntax or control characters."""
    return MARKS.sub("_", printable(str(words)))


def _healed(healed: Mapping[str, Any]) -> dict[str, Any]:
    head, rows = healings.held_out(healed)
    said = printable(healings.asked(healed)), healings.in_words(healed)
    none = healings.unmeasured(healed)
    return {"asked": said[0], "said": said[1], "head": ("held out", *head[1:]), "rows": rows, "unmeasured": none}
