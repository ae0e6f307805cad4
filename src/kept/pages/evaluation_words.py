"""An evaluation in sentences: what each model is better and worse at than the first, and on how many items."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.evaluation.averages import PREFERRED
from kept.pages.charts import DRAWN
from kept.pages.estimates import UNITS, items_each, listed, lower_is_better, notation, written
from kept.pages.matrices import is_average, relative, task_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from kept.evaluation.estimate import Figure
    from kept.evaluation.evaluation_data import EvaluationFile, EvaluationRow

    Rows = Sequence[EvaluationRow]
    Changes = Sequence[tuple[str, Figure, bool]]
    """Name of a measurement, its change, and whether lower is better."""

NAMED = 3
"""Maximum number of names in a phrase; more are counted."""


def verdicts(found: EvaluationFile) -> list[str]:
    """Return a sentence for each model after the first, at most as many as a chart draws."""
    names = [model.name for model in found.models]
    rows = [row for row in found.rows if row.differences and not row.detail]
    sentences = ("; ".join(_phrases(rows, n)) for n in range(len(names[1 : DRAWN + 1])))
    return [f"{name} against {names[0]}: {words}." for name, words in zip(names[1:], sentences, strict=False) if words]


def _phrases(rows: Rows, n: int) -> Iterator[str]:
    """Yield what changed in perplexities and in tasks for the n-th model after the first."""
    texts = [row for row in rows if row.part == "text" and row.metric == "perplexity"]
    tasks = _main_metrics(row for row in rows if row.part not in UNITS and not is_average(row))
    if texts:
        changes = [(row.name, relative(row)[n], True) for row in texts]
        yield f"{_sides(changes, PERPLEXITIES)} ({_counts(texts)})"
    if tasks:
        changes = [(task_name(row), row.differences[n], lower_is_better(row.metric)) for row in tasks]
        yield f"{_sides(changes, TASKS)} ({_counts(tasks)})"


def _main_metrics(rows: Iterable[EvaluationRow]) -> Rows:
    """Return one row for each task: that of the metric which counts in averages, or its first."""
    tasks: dict[tuple[str, str], list[EvaluationRow]] = {}
    for row in rows:
        tasks.setdefault((row.part, row.name), []).append(row)
    return [min(found, key=lambda row: [*PREFERRED, row.metric].index(row.metric)) for found in tasks.values()]


@dataclass(frozen=True)
class Wording:
    """The words for changes of one kind of measurement. `unit` follows a change, `places` are what is measured on."""

    subject: str
    better: str
    worse: str
    unclear: str
    places: str
    unit: str = ""


PERPLEXITIES = Wording("perplexity", "lower", "higher", "no clear change of perplexity", "domains", " %")
TASKS = Wording("tasks", "better", "worse", "no clear change", "tasks")


def _sides(changes: Changes, words: Wording) -> str:
    """Return which measurements are better, which are worse, and which show no clear change."""
    clear = [one for one in changes if one[1].significant]
    unclear = [name for name, change, _ in changes if not change.significant]
    if not clear:
        return f"{words.unclear} on {_places(unclear, words, 'any of ')}"
    sides = [[one for one in clear if ((one[1].value < 0) == one[2]) == better] for better in (True, False)]
    both = zip((words.better, words.worse), sides, strict=True)
    said = [f"{word} on {_named(side, words.unit)}" for word, side in both if side]
    rest = [f"without clear change on {_places(unclear, words)}"] if unclear else []
    return f"{words.subject} {listed([*said, *rest])}"


def _places(names: Sequence[str], words: Wording, many: str = "") -> str:
    """Return a few names, or how many there are."""
    return listed(names) if len(names) <= NAMED else f"{many}{len(names):,} {words.places}"


def _named(side: Changes, unit: str) -> str:
    """Return the names with their changes, the largest first."""
    ordered = sorted(side, key=lambda one: -abs(one[1].value))
    names = [f"{name} ({written(change, signed=True)}{unit})" for name, change, _ in ordered[:NAMED]]
    left = len(ordered) - NAMED
    return listed([*names, *[f"{left} more"] * (left > 0)])


def _counts(rows: Rows) -> str:
    return items_each(rows[0].part, [row.items for row in rows])


def models(found: EvaluationFile) -> str:
    """Return the models with family and dtype, and how their differences are written."""
    names = listed([f"{one.name} ({one.family}, {one.dtype})" for one in found.models])
    which = "the second" if len(found.models) == 2 else "each"
    paired = f" Differences are of {which} to the first, on the same items." if len(found.models) > 1 else ""
    sentences = (f"{names}.{paired}", notation(_figures(found)), _settings(found.settings))
    return " ".join(filter(None, sentences))


def _figures(found: EvaluationFile) -> Iterator[Figure]:
    """Yield the figures that the page writes as numbers."""
    for row in found.rows:
        if not row.detail and row.part != "positions":
            shares = (one for one in row.agreements if one is not None)
            yield from (*row.models, *row.differences, *shares)


def _settings(settings: Mapping[str, object]) -> str:
    """Return the settings that decide the figures; empty if all are the defaults."""
    window, limit, shots = (settings.get(key) for key in ("window", "limit", "num_fewshot"))
    said = [f"windows of {window} tokens"] if window else []
    said += [f"at most {limit} items of each task"] if limit else []
    said += [f"{shots} examples in each prompt"] if shots is not None else []
    said += ["prompts in the chat template"] if settings.get("apply_chat_template") is True else []
    return f"Settings: {', '.join(said)}." if said else ""
