"""Tasks of `lm-eval`: built from its own configs on local documents, and measured by its own evaluation.

Prompts, few-shot examples, filters, metrics and aggregations are lm-eval's. Only the source of the documents changes
(`dataset_files`), and the model (`harness`).
"""

from __future__ import annotations

import io
import json
import logging
import random
from collections import defaultdict
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kept.errors import InputError
from kept.evaluation import dataset_files
from kept.evaluation.dataset_files import DatasetName, LocalDataset
from kept.evaluation.estimate import Estimate, exponential, jackknife, mean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence
    from pathlib import Path

    from kept.evaluation.catalog import CatalogTask
    from kept.evaluation.subject import Subject

SEED = 1234
"""Seed of the sampling of few-shot examples, of numpy and of torch; lm-eval's default."""

RESAMPLED = 2000
"""Maximum number of documents for which the error of a metric that is no mean is estimated."""


@dataclass(frozen=True)
class TaskRun:
    """A task and how it is run. `local` are its files; None if its documents are in the hub's cache.

    `limit` is the maximum number of documents, `batch` the number of rows that run together (None: chosen by length).
    """

    name: str
    config: Mapping[str, Any]
    local: LocalDataset | None
    limit: int | None = None
    shots: int | None = None
    batch: int | None = None
    chat: bool = False
    date: str = ""

    @property
    def dataset(self) -> DatasetName:
        """The dataset that the config names."""
        return _dataset(self.name, self.config)

    def documents_key(self) -> dict[str, str]:
        """Return the checksums of the documents."""
        if self.local is not None:
            return self.local.key()
        found = None if "class" in self.config else dataset_files.from_hub_cache(self.dataset)
        return {} if found is None else {split: str(rows._fingerprint) for split, rows in found.items()}  # noqa: SLF001 - datasets has no public name for it


def prepared(task: CatalogTask, data: Path | None, **options: Any) -> TaskRun:
    """Return a task with its config and files. Raises InputError if it is unsafe or its documents are not here."""
    config = _config(task)
    own = config.get("custom_dataset") is not None or "class" in config
    local = None if own else dataset_files.required(_dataset(task.name, config), data, _splits(config))
    return TaskRun(task.name, config, local, **options)


def measure_task(subject: Subject, run: TaskRun, samples: Path | None = None) -> dict[str, Any]:
    """Return the estimate of each metric: `value`, `influences` by document, and whether it is a `proportion`.

    With `samples`, each document's prompts, answers and metrics are written to this JSON lines file.
    """
    from lm_eval.evaluator import evaluate

    from kept.evaluation.harness import Harness

    with subject.reporter.stage(f"{run.name}: load and build", 1, "task") as advance:
        asked = build_task(run)
        advance(1)
    harness = Harness(subject, run.name, run.batch, run.date)
    with _without_bars():
        found = evaluate(
            harness,
            {"tasks": {run.name: asked}, "groups": {}},
            limit=run.limit,
            bootstrap_iters=0,
            apply_chat_template=run.chat,
            fewshot_as_multiturn=run.chat,
        )
    if samples is not None:
        lines = (json.dumps(one, ensure_ascii=False, default=str) + "\n" for one in found["samples"][run.name])
        samples.write_text("".join(lines), encoding="utf-8")
    values = _values(found["samples"][run.name])
    return {"metrics": {metric: _estimated(asked, metric, some).stored() for metric, some in values.items()}}


def task_estimates(found: dict[str, Any]) -> dict[str, Estimate]:
    """Return the estimate of each metric."""
    return {metric: Estimate.read(stored) for metric, stored in found["metrics"].items()}


def build_task(run: TaskRun) -> Any:
    """Return lm-eval's task on its documents."""
    from datasets import disable_progress_bars
    from lm_eval.api.task import ConfigurableTask

    disable_progress_bars()
    random.seed(0)
    np.random.seed(SEED)  # noqa: NPY002 - lm-eval's tasks draw from it
    torch.manual_seed(SEED)
    config = dict(run.config)
    with _quiet():
        if "class" in config:
            asked = config["class"](config=config)
        else:
            if config.get("custom_dataset") is None:
                splits = _loaded(run)
                config |= {**_split_keys(config, splits), "custom_dataset": lambda **_: splits}
            asked = ConfigurableTask(config=config)
        _set_shots(asked, run.shots)
    return asked


def _set_shots(asked: Any, shots: int | None) -> None:
    """Set the number of examples by lm-eval's rule: a task whose config says 0 keeps it."""
    stated = asked.get_config("num_fewshot")
    if shots is not None and stated != 0:
        asked.set_config(key="num_fewshot", value=shots)
    elif stated is None:
        asked.set_config(key="num_fewshot", value=0)
    asked.set_fewshot_seed(seed=SEED)


def _config(task: CatalogTask) -> dict[str, Any]:
    """Return the config of a task, its functions resolved; that of humaneval is kept's own."""
    from lm_eval.tasks._yaml_loader import load_yaml

    from kept.evaluation.humaneval import description

    if task.name == "humaneval":
        return description()
    plain = {} if task.file is None else load_yaml(task.file, resolve_func=False)
    if plain.get("unsafe_code"):
        raise InputError(f"{task.name}: lm-eval would run generated code in this process; only humaneval has a sandbox")
    found = plain if task.file is None else load_yaml(task.file)
    found |= {**task.changes}
    # A metric of the hub's library would be downloaded; lm-eval has its own of the same name.
    found["metric_list"] = [{**metric, "hf_evaluate": False} for metric in found.get("metric_list") or []]
    if not found["metric_list"]:
        del found["metric_list"]
    return {key: value for key, value in found.items() if key not in {"tag", "group", "task_list"}}


def _dataset(name: str, config: Mapping[str, Any]) -> DatasetName:
    options = config.get("dataset_kwargs") or {}
    return DatasetName(name, str(config.get("dataset_path")), config.get("dataset_name"), options)


def _splits(config: Mapping[str, Any]) -> list[str]:
    keys = ("test_split", "validation_split", "training_split", "fewshot_split")
    return [config[key] for key in keys if config.get(key)]


def _loaded(run: TaskRun) -> Any:
    """Return the documents of each split; those of the split "" are those of the split to evaluate."""
    from datasets import Dataset

    if run.local is None:
        return dataset_files.from_hub_cache(run.dataset)
    evaluated = _evaluated(run.config)
    return {split or evaluated: Dataset.from_list(rows) for split, rows in run.local.rows().items()}


def _evaluated(config: Mapping[str, Any]) -> str:
    """Return the split that lm-eval evaluates."""
    return str(config.get("test_split") or config.get("validation_split") or "test")


def _split_keys(config: Mapping[str, Any], splits: Collection[str]) -> dict[str, Any]:
    """Return the config keys for the splits that there are.

    Without a split for few-shot examples they are drawn from the evaluated one, without the document that is asked.
    Raises InputError if the split to evaluate is missing.
    """
    evaluated = _evaluated(config)
    if evaluated not in splits:
        raise InputError(f"{config['task']}: its documents have the splits {', '.join(splits)} and no {evaluated!r}")
    shots = config.get("fewshot_split") or config.get("training_split") or config.get("validation_split")
    fixed = "samples" in (config.get("fewshot_config") or {})
    if fixed or (shots in splits and shots != evaluated):
        return {key: None for key in ("training_split", "validation_split") if config.get(key) not in splits}
    return {"training_split": None, "validation_split": None, "test_split": evaluated, "fewshot_split": evaluated}


def _values(samples: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Return each metric's values by document. A metric is named with its filter if there are several."""
    filters = dict.fromkeys(sample["filter"] for sample in samples)
    out: dict[str, list[Any]] = defaultdict(list)
    for sample in samples:
        for metric in sample["metrics"]:
            out[f"{metric},{sample['filter']}" if len(filters) > 1 else metric].append(sample[metric])
    return out


def _estimated(asked: Any, metric: str, values: Sequence[Any]) -> Estimate:
    """Return lm-eval's aggregate of a metric with the influence of each document."""
    aggregate = asked.aggregation()[metric.partition(",")[0]]
    name = getattr(aggregate, "__name__", "")
    if name == "mean":
        return mean([float(value) for value in values])
    if name == "perplexity":
        return exponential(mean([-float(value) for value in values]))
    return jackknife(values, aggregate, RESAMPLED)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress what lm-eval and its tasks print while they are built."""
    with redirect_stderr(io.StringIO()), _without_bars():
        yield


@contextmanager
def _without_bars() -> Iterator[None]:
    """Suppress lm-eval's progress bars and warnings; the model's progress is shown by the reporter."""
    from lm_eval.api import task

    logger, level, bar = logging.getLogger("lm_eval"), logging.getLogger("lm_eval").level, task.tqdm
    logger.setLevel(logging.ERROR)
    task.tqdm = lambda rows, **_: rows
    try:
        yield
    finally:
        logger.setLevel(level)
        task.tqdm = bar
