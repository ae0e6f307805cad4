"""`kept report`: an output's record, and what was measured of it, on one self-contained page."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from kept.checkpoint.reader import read_json
from kept.checkpoint.staging import write_whole
from kept.errors import InputError
from kept.pages import conversion, evaluation, healing
from kept.pages.blocks import Block, Heading, Page, Pairs, Section
from kept.pages.stated import blamed, text
from kept.record import RECORD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Record = Mapping[str, Any]

PAGE = "report.html"


@dataclass(frozen=True)
class Report:
    """A page that was written: where, and the anchors of its sections."""

    path: Path
    sections: tuple[str, ...]


def report(
    out: str | Path,
    file: str | Path | None = None,
    *,
    evaluations: Sequence[str | Path] = (),
    metrics: str | Path | None = None,
    pairs: Pairs | None = None,
) -> Report:
    """Write a page about an output: what was done to it, what was measured, and how it is loaded.

    `file`: where, else `report.html` in the output; one that is there is replaced. `evaluations`: JSON files of
    `kept eval`. `metrics`: the `metrics.jsonl` of the run that healed it. `pairs`: more texts to show. What the record
    does not hold has no section. Raises InputError where there is no record, CheckpointError for a file that is
    damaged, OutputError where the page cannot be written.
    """
    directory, target = Path(out), Path(out) / PAGE if file is None else Path(file)
    if not (directory / RECORD).is_file():
        raise InputError(f"{directory}: has no {RECORD}; kept convert and kept heal write one into their output")
    made = page(directory, [Path(one) for one in evaluations], None if metrics is None else Path(metrics), pairs)
    write_whole(target, render(made).encode(errors="backslashreplace"))
    return Report(target, tuple(section.name for section in made.sections))


def page(directory: Path, evaluations: Sequence[Path], metrics: Path | None, pairs: Pairs | None) -> Page:
    """All that is known of an output."""
    record, name = read_json(directory / RECORD), str(directory)
    measured = {file: read_json(file) for file in evaluations}
    if metrics is not None and "healed" not in record:
        raise InputError(f"{metrics}: {directory} was not healed, so that no run's metrics belong to it")
    with blamed(directory / RECORD, "the record", "convert again, or leave the report"):
        kept, verdict = conversion.verdict(record)
        lede = [_made_from(record), *conversion.in_words(record), *healing.in_words(record)]
        facts = healing.facts(record) or conversion.facts(record)
        about = [conversion.passes(record), conversion.parity(record)]
        sizes, load, texts = conversion.sizes(record), conversion.loading(record, name), conversion.continuations(record)
        curves = healing.healing(record, None)
    if metrics is not None:
        with blamed(metrics, "a line", "give the metrics.jsonl of a run of kept heal"):
            curves = healing.healing(record, metrics)
    domains: list[Block] = []
    written = [Heading("When the conversion was verified"), texts] if texts else []
    if pairs:
        written += [Heading("With stock transformers"), pairs]
    for file, found in measured.items():
        with blamed(file, "the evaluation", "make it again with kept eval --out"):
            domains += [*[Heading(" and ".join(evaluation.names(found)))] * (len(measured) > 1), *evaluation.blocks(found)]
            facts += evaluation.facts(found)
            for title, both in evaluation.pairs(found):
                written += [Heading(title), both]
    sections = (
        *about,
        curves,
        Section("domains", "What each domain kept", tuple(domains)) if domains else None,
        Section("generations", "Side by side", tuple(written)) if written else None,
        sizes,
        load,
    )
    title = directory.resolve().name
    return Page(title, kept, verdict, tuple(filter(None, lede)), tuple(facts), tuple(s for s in sections if s))


def _made_from(record: Record) -> str:
    if not {"source", "recipe"} <= record.keys():
        return ""
    source = record["source"]
    healed = ", and healed" if "healed" in record else ""
    return f"{text(source['name'])} ({text(source['family'])}), rewritten as a stock {text(record['recipe']['to'])}{healed}."


def render(made: Page) -> str:
    """The page as HTML. Everything in it is escaped but the pictures, whose letters matplotlib escapes."""
    from kept.pages.figures import draw  # noqa: PLC0415 - imports matplotlib, which only drawing needs

    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = files("kept").joinpath("templates/report.html.jinja").read_text(encoding="utf-8")
    return environment.from_string(template).render(page=made, draw=draw)
