"""Evaluate one model, or compare several on the same items."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from kept.device import torch_device
from kept.errors import InputError
from kept.evaluation.averages import Measured, averages
from kept.evaluation.estimate import Estimate, difference
from kept.evaluation.evaluation_data import EvaluatedModel, EvaluationRow
from kept.evaluation.forgetting import Forgetting, forgetting
from kept.evaluation.measurements import MeasurementPlan, measurement_plans
from kept.evaluation.named_models import named_models
from kept.evaluation.result_store import Store
from kept.evaluation.settings import EvalSettings
from kept.evaluation.subject import Subject
from kept.formatting import uncertain
from kept.ir.tensors import TORCH_NAMES
from kept.reporting import Progress, Reporter, reporter_of
from kept.summary import Summarised

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kept.loaded import LoadedModel
    from kept.option_types import EvaluateOptions

    Result = dict[str, Any]


@dataclass(frozen=True, repr=False)
class Evaluation(Summarised):
    """The models, the settings and the results. `texts` has the generated texts by measurement, for each model.

    `forgetting`: changes of the models after the first; None if no domain is old or new.
    """

    models: tuple[EvaluatedModel, ...]
    settings: EvalSettings
    rows: tuple[EvaluationRow, ...]
    texts: Mapping[str, tuple[Any, ...]]
    forgetting: Forgetting | None = None

    def summary(self) -> dict[str, str]:
        """Return the figures of each metric that counts, one for each model."""
        found = {"models": ", ".join(one.name for one in self.models)}
        for row in self.rows:
            if row.models and not row.detail:
                figures = ", ".join(uncertain(one.value, one.error) for one in row.models)
                found[f"{row.name}: {row.metric}"] = figures
        return found


def evaluate(
    path: str | Path,
    *others: str | Path,
    texts: Mapping[str, str | Path] | None = None,
    old: Mapping[str, str | Path] | None = None,
    new: Mapping[str, str | Path] | None = None,
    results: str | Path = "kept-eval",
    progress: Progress = False,
    **options: Unpack[EvaluateOptions],
) -> Evaluation:
    """Evaluate a checkpoint, or compare several with the first.

    Finished pieces are stored and not measured again. One model is in memory at a time.

    Args:
        path: the first model, the baseline. "name=path" gives it a name in tables.
        others: models that are compared with it, of any family.
        texts: domain to a text file, a JSON, CSV or parquet file, or a directory of them: perplexity and bits per byte.
        old: such files of what the baseline knew: what do the others forget?
        new: such files of what the others were taught: what did they learn?
        results: directory of the stored pieces, keyed by checksums of files, settings and data.
        progress: True shows bars on stderr; or a `kept.Reporter`.
        options: other fields of `kept.evaluation.settings.EvalSettings`, such as tasks, data, limit or dtype.

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
        _check_single(settings)
    models = named_models([path, *others])
    asked = [*measurement_plans(settings)]
    store = Store(Path(results))
    measured = [_measure(name, one, settings, asked, store, reporter_of(progress)) for name, one in models.items()]
    found = [results for _, results in measured]
    return Evaluation(
        tuple(model for model, _ in measured),
        settings,
        tuple(_rows(asked, found)),
        _texts(asked, found),
        forgetting(settings, [*models], _text_results(asked, found)),
    )


def _check_single(settings: EvalSettings) -> None:
    """Raise InputError for a setting that needs a second model."""
    if "agreement" in settings.tasks:
        raise InputError("agreement: compares two models; give a second model")
    for role in ("old", "new"):
        if getattr(settings, role):
            raise InputError(f"{role}: compares models with the first; give a second model, or pass the file as a text")


def _settings(files: Mapping[str, Mapping[str, str | Path]], options: Mapping[str, Any]) -> EvalSettings:
    """Return the settings; `files` has the texts by role and domain. Raises InputError for a repeated domain."""
    texts = [(name, Path(file)) for named in files.values() for name, file in named.items()]
    twice = next((name for n, (name, _) in enumerate(texts) if name in dict(texts[:n])), None)
    if twice is not None:
        raise InputError(f"{twice}: two texts have this name; rename one")
    return EvalSettings.from_table(options, texts=dict(texts), old=tuple(files["old"]), new=tuple(files["new"]))


def _measure(
    name: str,
    loaded: LoadedModel,
    settings: EvalSettings,
    asked: Sequence[MeasurementPlan],
    store: Store,
    reporter: Reporter,
) -> tuple[EvaluatedModel, list[Result]]:
    """Return the results of one model. Weights are loaded only if a result is not stored, and released at the end."""
    dtype = None if settings.dtype is None else getattr(torch, settings.dtype)
    subject = Subject(loaded, dtype, torch_device(settings.device), reporter, store.journal)
    found = [plan.measure(subject, store) for plan in asked]
    named = settings.dtype or TORCH_NAMES[loaded.program.dtype]
    return EvaluatedModel(name, loaded.family.name, named, subject.identity), found


def _rows(asked: Sequence[MeasurementPlan], found: Sequence[Sequence[Result]]) -> Iterator[EvaluationRow]:
    """Yield the rows of every measurement; those of a part are followed by its averages."""
    held: list[Measured] = []
    for n, plan in enumerate(asked):
        results = [each[n] for each in found]
        if plan.figures is not None:
            tables = [plan.figures(result) for result in results]
            yield from (_row(plan, metric, tables) for metric in tables[0] if all(metric in table for table in tables))
            held.append(Measured(plan, tables))
        if plan.compare is not None and len(results) > 1:
            yield from _agreements(plan, [plan.compare(results[0], other) for other in results[1:]])
        if n + 1 == len(asked) or asked[n + 1].part != plan.part:
            yield from (_compared(row, estimates) for row, estimates in averages(held))
            held = []


def _row(plan: MeasurementPlan, metric: str, tables: Sequence[Mapping[str, Estimate]]) -> EvaluationRow:
    estimates = [table[metric] for table in tables]
    detail = any(group.averages for group in plan.groups) or plan.headline not in {None, metric}
    return _compared(
        EvaluationRow(plan.part, plan.name, metric, len(estimates[0].influences), detail=detail), estimates
    )


def _compared(row: EvaluationRow, estimates: Sequence[Estimate]) -> EvaluationRow:
    apart = tuple(difference(estimates[0], other) for other in estimates[1:])
    return replace(row, models=tuple(estimate.figure for estimate in estimates), differences=apart)


def _agreements(plan: MeasurementPlan, tables: Sequence[Mapping[str, Estimate]]) -> Iterator[EvaluationRow]:
    """Yield the rows of each metric that is defined for at least one pair of models."""
    for metric in dict.fromkeys(metric for table in tables for metric in table):
        found = [table.get(metric) for table in tables]
        items = max(len(one.influences) for one in found if one is not None)
        figures = tuple(None if one is None else one.figure for one in found)
        yield EvaluationRow(plan.part, plan.name, metric, items, agreements=figures)


def _text_results(asked: Sequence[MeasurementPlan], found: Sequence[Sequence[Result]]) -> dict[str, list[Result]]:
    """Return the results on texts by domain, for each model."""
    return {plan.name: [each[n] for each in found] for n, plan in enumerate(asked) if plan.part == "text"}


def _texts(asked: Sequence[MeasurementPlan], found: Sequence[Sequence[Result]]) -> dict[str, tuple[Any, ...]]:
    """Return the generated texts: prompts with continuations, or answers to questions."""
    written = [n for n, plan in enumerate(asked) if plan.compare is not None]
    return {f"{asked[n].part}: {asked[n].name}": tuple(_written(each[n]) for each in found) for n in written}


def _written(found: Result) -> Any:  # noqa: ANN401 - answers, or prompts with texts
    return found["answers"] if "answers" in found else [*map(list, zip(found["prompts"], found["texts"], strict=True))]
