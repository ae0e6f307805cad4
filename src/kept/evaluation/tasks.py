"""Tasks of `lm-eval` on local files: their registry, and the metrics of each document.

Prompts, choices and metrics are those of lm-eval's own descriptions. Documents come from local files instead of the
hub; nothing is downloaded.
"""

from __future__ import annotations

import io
import logging
from collections import defaultdict
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.errors import InputError
from kept.evaluation import documents
from kept.evaluation.arrow import arrow_rows
from kept.evaluation.estimate import Estimate, exponential, macro_f1, mean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kept.evaluation.journal import Journal
    from kept.evaluation.subject import Subject

SEED = 1234
"""Seed of the sampling of few-shot examples; lm-eval's default."""


@dataclass(frozen=True)
class Task:
    """A task: lm-eval's description of it (None: kept's own), and the file or directory of its documents.

    `shots` few-shot examples are drawn from the split `shots_from`. `headline` is the metric that counts in a suite's
    average. `changes` replace keys of the description.
    """

    name: str
    description: str | None
    source: str
    read: Callable[[Path], Any] = documents.lines
    shots: int = 0
    headline: str = "acc"
    shots_from: str = "test"
    changes: Mapping[str, Any] = field(default_factory=dict)


PLAIN = (
    Task("arc_challenge", "arc/arc_challenge.yaml", "arc/arc_challenge.jsonl", documents.arc, 25, "acc_norm"),
    Task(
        "hellaswag",
        "hellaswag/hellaswag.yaml",
        "hellaswag/hellaswag__rc_5shot.jsonl.gz",
        documents.hellaswag,
        10,
        "acc_norm",
        changes={"process_docs": None},
    ),
    Task(
        "truthfulqa_mc2",
        "truthfulqa/truthfulqa_mc2.yaml",
        "truthfulqa/TruthfulQA.csv",
        documents.truthfulqa,
    ),
    Task("winogrande", "winogrande/default.yaml", "winogrande/winogrande.jsonl", documents.winogrande, 5),
    Task("gsm8k", "gsm8k/gsm8k.yaml", "gsm8k/test.jsonl", shots=5, headline="exact_match,strict-match"),
    Task("lambada_openai", "lambada/lambada_openai.yaml", "lambada/lambada_openai.jsonl", documents.lambada),
    Task("humaneval", None, "humaneval/HumanEval.jsonl.gz", headline="pass@1"),
    Task("kobest_boolq", "kobest/kobest_boolq.yaml", "kobest/BoolQ/test.tsv", documents.kobest_boolq, 0, "f1"),
    Task("kobest_copa", "kobest/kobest_copa.yaml", "kobest/COPA/test.tsv", documents.kobest_copa, 0, "f1"),
    Task(
        "kobest_hellaswag",
        "kobest/kobest_hellaswag.yaml",
        "kobest/HellaSwag/test.tsv",
        documents.kobest_hellaswag,
        0,
        "f1",
    ),
    Task(
        "kobest_sentineg", "kobest/kobest_sentineg.yaml", "kobest/SentiNeg/test.tsv", documents.kobest_sentineg, 0, "f1"
    ),
    Task("kobest_wic", "kobest/kobest_wic.yaml", "kobest/WiC/test.tsv", documents.kobest_wic, 0, "f1"),
)

TASKS = {task.name: task for task in PLAIN}

SUITES: Mapping[str, tuple[str, ...]] = {
    "h6": ("arc_challenge", "hellaswag", "mmlu", "truthfulqa_mc2", "winogrande", "gsm8k"),
    "kobest": tuple(name for name in TASKS if name.startswith("kobest_")),
    "blimp": ("blimp",),
    "lambada": ("lambada_openai",),
    "humaneval": ("humaneval",),
}
"""Tasks of each suite; `mmlu` and `blimp` are groups with one task per file."""

GROUPS = ("mmlu", "blimp")

MT_BENCH = "mt-bench"

NAMES = tuple(dict.fromkeys(("positions", "passkey", "agreement", *SUITES, MT_BENCH, "mmlu", *TASKS)))
"""Allowed names of suites: measurements on texts, suites of tasks, and single tasks."""


def members(name: str, data: Path) -> list[Task]:
    """Return the task of a name, or all tasks of a group, in order. Raises InputError if a group has none."""
    if name not in GROUPS:
        return [TASKS[name]]
    found = _mmlu(data) if name == "mmlu" else _blimp(data)
    if not found:
        raise InputError(f"{data / name}: has no tasks; give the directory of the tasks' files with --data DIR")
    return found


def _mmlu(data: Path) -> list[Task]:
    folder = data / "mmlu" / "mmlu_no_train"
    names = sorted(entry.name for entry in folder.glob("*") if (entry / "test").is_dir())
    return [
        Task(f"mmlu_{n}", f"mmlu/default/mmlu_{n}.yaml", f"mmlu/mmlu_no_train/{n}", arrow, 5, shots_from="dev")
        for n in names
    ]


def _blimp(data: Path) -> list[Task]:
    names = sorted(file.stem for file in (data / "blimp").glob("*.jsonl"))
    return [Task(f"blimp_{n}", f"blimp/{n}.yaml", f"blimp/{n}.jsonl") for n in names]


def arrow(folder: Path) -> dict[str, Any]:
    """Return the documents of each split; a split is a folder with one Arrow file."""
    files = {split: documents.require_file(folder / split / "data-00000-of-00001.arrow") for split in ("dev", "test")}
    return {split: arrow_rows(file) for split, file in files.items()}


def sources(task: Task, data: Path) -> list[Path]:
    """Return the files of a task. Raises InputError if they are missing."""
    place = data / task.source
    return sorted(place.rglob("*.arrow")) if place.is_dir() else [documents.require_file(place)]


def measure_task(subject: Subject, task: Task, data: Path, limit: int | None) -> dict[str, Any]:
    """Return the value of each metric for each of the first `limit` documents, in order."""
    with subject.reporter.stage(f"{task.name}: load and build", 1, "task") as advance, _quiet():
        from kept.evaluation.harness import Harness

        asked = build_task(task, data)
        asked.set_fewshot_seed(SEED)
        asked.build_all_requests(limit=limit)
        advance(1)
    kind = "loglikelihood" if asked.OUTPUT_TYPE == "multiple_choice" else asked.OUTPUT_TYPE
    responses = getattr(Harness(subject, task.name), kind)(asked.instances)
    for instance, response in zip(asked.instances, responses, strict=True):
        instance.resps.append(response)
    with _quiet():
        asked.apply_filters()
    with subject.reporter.stage(task.name, len(asked.instances), "answers") as advance:
        return {"metrics": _metrics(asked, task, advance, subject.journal)}


def task_estimates(found: dict[str, Any]) -> dict[str, Estimate]:
    """Return the estimate of each metric over documents."""
    return {metric: _estimate(metric, values) for metric, values in found["metrics"].items()}


def build_task(task: Task, data: Path) -> Any:
    """Return lm-eval's task on local documents. Raises InputError if they are missing or have another format."""
    from datasets import Dataset, disable_progress_bars
    from lm_eval.api.task import ConfigurableTask

    disable_progress_bars()
    place = data / task.source
    try:
        read = task.read(place)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{place}: does not have the format of {task.name} ({error!r}); fetch it again") from None
    splits = read if isinstance(read, dict) else {"test": read}
    made = {split: Dataset.from_list(rows) for split, rows in splits.items()}
    return ConfigurableTask(config={**_description(task), **_local(task, made)})


def _description(task: Task) -> dict[str, Any]:
    from lm_eval import tasks
    from lm_eval.tasks._yaml_loader import load_yaml

    if task.description is None:
        from kept.evaluation.humaneval import description

        return description()
    found = load_yaml(Path(tasks.__file__).parent / task.description)
    if found.get("unsafe_code"):
        raise InputError(f"{task.name}: lm-eval would run generated code in this process; only humaneval has a sandbox")
    # The metric of the hub's library would be downloaded; lm-eval has its own of the same name.
    found["metric_list"] = [{**metric, "hf_evaluate": False} for metric in found["metric_list"]]
    return {key: value for key, value in found.items() if key not in {"tag", "group", "task_list"}}


def _local(task: Task, splits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config keys that replace the hub's dataset and set the number of few-shot examples."""
    return {
        "custom_dataset": lambda **_: splits,
        "training_split": None,
        "validation_split": None,
        "test_split": "test",
        "fewshot_split": task.shots_from,
        "num_fewshot": task.shots,
        **task.changes,
    }


def _metrics(asked: Any, task: Task, progress: Callable[[int], None], journal: Journal) -> dict[str, list[Any]]:
    by_document: dict[int, list[Any]] = defaultdict(list)
    for instance in asked.instances:
        by_document[instance.doc_id].append(instance)
    out: dict[str, list[Any]] = defaultdict(list)
    filters = list(asked.instances[0].filtered_resps)
    for name in filters:
        for instances in by_document.values():
            ordered = sorted(instances, key=lambda one: one.idx)
            results = [one.filtered_resps[name] for one in ordered]
            for metric, value in journal.take(partial(_results, asked, ordered[0].doc, results)).items():
                out[f"{metric},{name}" if len(filters) > 1 else metric].append(value)
            progress(len(instances) if name == filters[0] else 0)
    assert task.headline in out, (task.name, list(out))
    return dict(out)


def _results(asked: Any, document: Any, results: Sequence[Any]) -> dict[str, Any]:
    """Return each metric's value for a document; tasks that run generated code take seconds here."""
    return {metric: _plain(value) for metric, value in asked.process_results(document, results).items()}


def _plain(value: Any) -> Any:
    return [int(one) for one in value] if isinstance(value, tuple) else float(value)


def _estimate(metric: str, values: Sequence[Any]) -> Estimate:
    if metric == "f1":
        return macro_f1([(gold, chosen) for gold, chosen in values])
    if metric == "perplexity":
        return exponential(mean([-value for value in values]))
    return mean(values)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress lm-eval's progress bars and warnings."""
    logger, level = logging.getLogger("lm_eval"), logging.getLogger("lm_eval").level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
