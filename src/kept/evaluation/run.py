"""Evaluating: one model, or several side by side on the same items, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kept.errors import InputError
from kept.evaluation.estimate import Estimate, average, difference
from kept.evaluation.evaluation_data import EvaluatedModel, EvaluationRow
from kept.evaluation.forgetting import Forgetting, forgetting
from kept.evaluation.measurements import MeasurementPlan, pieces
from kept.evaluation.named_models import named_models
from kept.evaluation.result_store import Store
from kept.evaluation.settings import EvalSettings
from kept.evaluation.subject import Subject
from kept.ir.tensors import TORCH_NAMES
from kept.reporting import Reporter, Silent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kept.loaded import LoadedModel

    Found = dict[str, Any]


@dataclass(frozen=True)
class Evaluation:
    """What was asked, of which models, and what was found; `texts` has what they wrote, by piece, for each model.

    `forgetting`: what the models after the first learned and forgot, where domains are old or new.
    """

    models: tuple[EvaluatedModel, ...]
    settings: EvalSettings
    rows: tuple[EvaluationRow, ...]
    texts: Mapping[str, tuple[Any, ...]]
    forgetting: Forgetting | None = None


def evaluate(
    path: str | Path,
    *others: str | Path,
    texts: Mapping[str, str | Path] | None = None,
    old: Mapping[str, str | Path] | None = None,
    new: Mapping[str, str | Path] | None = None,
    results: str | Path = "kept-eval",
    reporter: Reporter | None = None,
    **options: Any,  # noqa: ANN401 - Settings names and checks them
) -> Evaluation:
    """Evaluate a checkpoint, or compare several with the first.

    Finished pieces are stored and not measured again. One model is in memory at a time.

    Args:
        path: the first model, the baseline. "name=path" gives it a name in tables.
        others: models that are compared with it, of any family.
        texts: domain to UTF-8 file: perplexity and bits per byte.
        old: such files of what the baseline knew: what do the others forget?
        new: such files of what the others were taught: what did they learn?
        results: directory of the stored pieces, keyed by checksums of files, settings and data.
        reporter: is told about progress.
        options: other fields of `kept.evaluation.settings.EvalSettings`, such as suites, data, limit or dtype.

    Returns:
        A figure with its standard error for each model, and the difference of each model to the baseline.

    Raises:
        KeptError: a model, text or task file cannot be read, or a setting is wrong.

    Example:
        ```python
        found = kept.evaluate("path/to/llama", "pro=out/pro", old={"stories": "en.txt"}, new={"python": "code.txt"})
        ```
    """
    settings = _settings({"texts": texts or {}, "old": old or {}, "new": new or {}}, options)
    if not others:
        _alone(settings)
    models = named_models([path, *others])
    asked = [*pieces(settings)]
    store = Store(Path(results))
    measured = [_measure(name, one, settings, asked, store, reporter or Silent()) for name, one in models.items()]
    found = [results for _, results in measured]
    return Evaluation(
        tuple(model for model, _ in measured),
        settings,
        tuple(_rows(asked, found)),
        _texts(asked, found),
        forgetting(settings, [*models], _of_texts(asked, found)),
    )


def _alone(settings: EvalSettings) -> None:
    """Raise InputError for what takes another model."""
    if "agreement" in settings.suites:
        raise InputError("agreement: compares two models; name the other one")
    for role in ("old", "new"):
        if getattr(settings, role):
            raise InputError(f"{role}: compares models with the first; name another one, or give the file as a text")


def _settings(files: Mapping[str, Mapping[str, str | Path]], options: Mapping[str, Any]) -> EvalSettings:
    """`files`: by role and domain."""
    texts = [(name, Path(file)) for named in files.values() for name, file in named.items()]
    twice = next((name for n, (name, _) in enumerate(texts) if name in dict(texts[:n])), None)
    if twice is not None:
        raise InputError(f"{twice}: two texts have this name; give each its own")
    return EvalSettings.from_table(options, texts=dict(texts), old=tuple(files["old"]), new=tuple(files["new"]))


def _measure(
    name: str,
    opened: LoadedModel,
    settings: EvalSettings,
    asked: Sequence[MeasurementPlan],
    store: Store,
    reporter: Reporter,
) -> tuple[EvaluatedModel, list[Found]]:
    """Every piece of one model, which is loaded only if one of them is not finished, and let go of at the end."""
    dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
    subject = Subject(opened, dtype, settings.device, reporter, store.journal)
    found = [piece.find(subject, store) for piece in asked]
    named = settings.dtype or TORCH_NAMES[opened.program.dtype]
    return EvaluatedModel(name, opened.family.name, named, subject.identity), found


def _rows(asked: Sequence[MeasurementPlan], found: Sequence[Sequence[Found]]) -> Iterator[EvaluationRow]:
    """Rows of every piece, and behind the last of a group or a suite those of its average."""
    held: list[tuple[MeasurementPlan, list[Estimate]]] = []
    for n, piece in enumerate(asked):
        results = [each[n] for each in found]
        if piece.figures is not None:
            tables = [piece.figures(result) for result in results]
            yield from (_row(piece, metric, tables) for metric in tables[0] if all(metric in table for table in tables))
            if piece.headline is not None:
                held.append((piece, [table[piece.headline] for table in tables]))
        if piece.alike is not None and len(results) > 1:
            yield from _agreements(piece, [piece.alike(results[0], other) for other in results[1:]])
        if n + 1 == len(asked) or asked[n + 1].part != piece.part:
            yield from _averages(held)
            held = []


def _row(piece: MeasurementPlan, metric: str, tables: Sequence[Mapping[str, Estimate]]) -> EvaluationRow:
    estimates = [table[metric] for table in tables]
    detail = piece.group is not None or piece.headline not in {None, metric}
    return _compared(EvaluationRow(piece.part, piece.name, metric, len(estimates[0].pulls), detail=detail), estimates)


def _compared(row: EvaluationRow, estimates: Sequence[Estimate]) -> EvaluationRow:
    apart = tuple(difference(estimates[0], other) for other in estimates[1:])
    return replace(row, models=tuple(estimate.figure for estimate in estimates), differences=apart)


def _agreements(piece: MeasurementPlan, tables: Sequence[Mapping[str, Estimate]]) -> Iterator[EvaluationRow]:
    """Rows of what at least one pair of models has in common."""
    for metric in dict.fromkeys(metric for table in tables for metric in table):
        found = [table.get(metric) for table in tables]
        items = max(len(one.pulls) for one in found if one is not None)
        figures = tuple(None if one is None else one.figure for one in found)
        yield EvaluationRow(piece.part, piece.name, metric, items, agreements=figures)


def _averages(held: Sequence[tuple[MeasurementPlan, list[Estimate]]]) -> Iterator[EvaluationRow]:
    """The average of each group, weighted by documents, and of the suite, where a group counts as one task."""
    if len(held) < 2:
        return
    entries: list[list[Estimate]] = []
    for group in dict.fromkeys(piece.group for piece, _ in held):
        mine = [estimates for piece, estimates in held if piece.group == group]
        if group is None:
            entries += mine
            continue
        joined = [average(column, [len(e.pulls) for e in column]) for column in zip(*mine, strict=True)]
        headline = next(piece.headline for piece, _ in held if piece.group == group)
        yield _compared(EvaluationRow(held[0][0].part, group, str(headline), len(joined[0].pulls)), joined)
        entries.append(joined)
    if len(entries) > 1:
        joined = [average(column) for column in zip(*entries, strict=True)]
        yield _compared(EvaluationRow(held[0][0].part, "average", "of the tasks", len(joined[0].pulls)), joined)


def _of_texts(asked: Sequence[MeasurementPlan], found: Sequence[Sequence[Found]]) -> dict[str, list[Found]]:
    """What was found in each text, by domain, for each model."""
    return {piece.name: [each[n] for each in found] for n, piece in enumerate(asked) if piece.part == "text"}


def _texts(asked: Sequence[MeasurementPlan], found: Sequence[Sequence[Found]]) -> dict[str, tuple[Any, ...]]:
    """What models wrote: prompts with continuations, questions with answers."""
    written = [n for n, piece in enumerate(asked) if piece.alike is not None]
    return {f"{asked[n].part}: {asked[n].name}": tuple(_written(each[n]) for each in found) for n in written}


def _written(found: Found) -> Any:  # noqa: ANN401 - answers, or prompts with texts
    return found["answers"] if "answers" in found else [*map(list, zip(found["prompts"], found["texts"], strict=True))]
