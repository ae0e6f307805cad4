"""`kept report`: the record of an output and its measurements on one self-contained HTML page."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from markupsafe import Markup

from kept.checkpoint.output_path import check_no_checkpoint, check_replaceable
from kept.checkpoint.small_files import refused, write_whole
from kept.errors import InputError
from kept.output.record import RECORD, read_record
from kept.output.titles import title
from kept.pages import conversion, evaluation, healing
from kept.pages.architecture import architecture
from kept.pages.blocks import Heading, Page, Paragraph, Section, TextPairs
from kept.pages.charts import aligned
from kept.pages.loading import loading

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kept.output.record import Record
    from kept.pages.blocks import Block
    from kept.pages.charts import Chart
    from kept.pages.evaluation import EvaluationSections

PAGE = "report.html"

GENERATOR = b'<meta name="generator" content="kept report">'
"""Tag by which an earlier report is recognised."""


@dataclass(frozen=True)
class Report:
    """A written page: its path, and the anchors of its sections."""

    path: Path
    sections: tuple[str, ...]


def report(
    out: str | Path,
    file: str | Path | None = None,
    *,
    evaluations: str | Path | Sequence[str | Path] = (),
    metrics: str | Path | None = None,
    pairs: TextPairs | None = None,
    place: str | Path | None = None,
    stays: bool = True,
) -> Report:
    """Write an HTML page about an output: what was done, what was measured, and how to load it.

    Args:
        out: an output with a `kept.json`.
        file: where to write; without it, `report.html` in the output. An existing file is replaced.
        evaluations: a JSON file, or several, that `kept eval --out` wrote.
        metrics: `metrics.jsonl` of the training run.
        pairs: more texts of source and output to show side by side.
        place: the path of the output that the page states, if it is not `out`.
        stays: False if the output will be removed; the page then has no section on loading it.

    Returns:
        The path of the page and the titles of its sections. A section without data is left out.

    Raises:
        InputError: the output has no `kept.json`.
        CheckpointError: a file is damaged.
        OutputError: the page cannot be written.

    Example:
        ```python
        kept.report("out/healed", evaluations=["eval.json"])
        ```
    """
    evaluations = [evaluations] if isinstance(evaluations, str | Path) else evaluations
    directory, target = Path(out), Path(out) / PAGE if file is None else Path(file)
    if not (directory / RECORD).is_file():
        raise InputError(f"{directory}: has no {RECORD}; kept convert and kept heal write one into their output")
    check_page(target, directory, [Path(one) for one in evaluations], None if metrics is None else Path(metrics))
    read = [Path(one) for one in evaluations], None if metrics is None else Path(metrics)
    made = page(directory, *read, pairs, directory if place is None else Path(place), stays=stays)
    made = replace(made, beside_record=target.resolve().parent == directory.resolve())
    with refused(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, render(made).encode(errors="backslashreplace"))
    return Report(target, tuple(section.name for section in made.sections))


def check_page(target: Path, directory: Path, evaluations: Sequence[Path], metrics: Path | None) -> None:
    """Raise OutputError if the page would replace an input, a file of a checkpoint, or a file that is not a page."""
    if target.suffix not in {".html", ".htm"}:
        check_no_checkpoint(target)
    inputs = {f"evaluation {number}": file for number, file in enumerate(evaluations, 1)}
    inputs |= {"the record": directory / RECORD, **({} if metrics is None else {"the metrics": metrics})}
    check_replaceable(target, inputs, _is_page)


def _is_page(file: Path) -> bool:
    """Return whether a file is a page that `kept report` wrote."""
    with file.open("rb") as opened:
        return GENERATOR in opened.read(1000)


def page(
    directory: Path,
    evaluations: Sequence[Path],
    metrics: Path | None,
    pairs: TextPairs | None,
    place: Path,
    *,
    stays: bool,
) -> Page:
    """Return the page about an output. Raises InputError for metrics of an output that was not healed."""
    record = read_record(directory)
    assert record is not None, "its absence was reported"
    if metrics is not None and record.healed is None:
        raise InputError(f"{metrics}: {directory} was not healed, so that no run's metrics belong to it")
    steps = [] if metrics is None else healing.read_steps(metrics)
    measured = [evaluation.sections(file) for file in evaluations]
    sections = (
        _forgetting(measured),
        _domains(measured),
        architecture(record),
        conversion.history(record),
        conversion.passes(record),
        conversion.parity(record),
        healing.healing(record, steps),
        _generations(conversion.continuations(record), pairs, measured),
        conversion.sizes(record),
        loading(record, str(place)) if stays else None,
    )
    known = [replace(section, blocks=aligned(section.blocks)) for section in sections if section is not None]
    return _page(record, place, measured, known)


def _page(record: Record, place: Path, measured: Sequence[EvaluationSections], sections: Sequence[Section]) -> Page:
    """Return the page with its title, verdict and most important figures."""
    kept, verdict = conversion.verdict(record)
    facts = healing.facts(record) or conversion.facts(record)
    return Page(
        title=_title(record, place),
        kept=kept,
        verdict=verdict,
        lede=_lede(record, measured),
        facts=(*facts, *(fact for one in measured for fact in one.facts)),
        sections=tuple(sections),
        beside_record=False,
    )


def _lede(record: Record, measured: Sequence[EvaluationSections]) -> tuple[str, ...]:
    """Return the result in one sentence, what evaluations found, and the measurements of the record."""
    first, rest = [], [*healing.in_words(record), *conversion.in_words(record)]
    if rest:
        first, rest = rest[:1], rest[1:]
    return (*first, *(words for one in measured for words in one.verdicts), *rest)


def _forgetting(measured: Sequence[EvaluationSections]) -> Section | None:
    """Return the section on learning and forgetting; None if no evaluation has old or new domains."""
    blocks = _titled([(one.title, one.forgetting) for one in measured])
    return Section("forgetting", "Learned and forgotten", blocks) if blocks else None


def _domains(measured: Sequence[EvaluationSections]) -> Section | None:
    """Return the section on evaluations; None if there are none."""
    blocks = _titled([(one.title, one.blocks) for one in measured])
    return Section("domains", "Evaluation", blocks) if blocks else None


def _titled(parts: Sequence[tuple[str, tuple[Block, ...]]]) -> tuple[Block, ...]:
    """Return the blocks of all evaluations, with headings if there are several."""
    known = [(title, blocks) for title, blocks in parts if blocks]
    titled = [(*[Heading(title)] * (len(known) > 1), *blocks) for title, blocks in known]
    return tuple(block for blocks in titled for block in blocks)


def _generations(
    recorded: Iterable[tuple[str, TextPairs]], given: TextPairs | None, measured: Sequence[EvaluationSections]
) -> Section | None:
    """Return the section on generated texts; None if there are none."""
    known = [*recorded, *([] if given is None else [("With stock transformers", given)])]
    known += [pair for one in measured for pair in one.pairs]
    blocks = tuple(block for title, pairs in known for block in (Heading(title), pairs))
    opening = Paragraph(
        "Greedy texts of two models after the same prompt. What differs, from where they part, is marked."
    )
    return Section("generations", "Side by side", (opening, *blocks)) if blocks else None


def _title(record: Record, place: Path) -> str:
    """Return the names of source and output; only the output's if no conversion is recorded."""
    if record.source is None or record.target is None:
        return place.resolve().name
    healed = "" if record.healed is None else ", healed"
    return f"{title(record)}{healed}"


def render(made: Page) -> str:
    """Return the page as HTML. All text is escaped; matplotlib escapes the text in charts."""
    if find_spec("matplotlib") is None:
        return _template().render(page=made, draw=_described)
    from kept.pages.figures import draw  # noqa: PLC0415 - imports matplotlib, which only drawing needs

    return _template().render(page=made, draw=draw)


def _described(picture: Chart, _: str) -> Markup:
    """Return what a chart shows in words: matplotlib is an optional package."""
    return Markup("<p>{} (To draw it: pip install 'kept[report]')</p>").format(picture.summary)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(files("kept").joinpath("templates/report.html.jinja").read_text(encoding="utf-8"))
