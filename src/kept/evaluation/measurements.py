"""The measurements of an evaluation. Each runs on one model alone, and its result is stored on disk."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from kept.errors import InputError
from kept.evaluation import agreement, mt_bench, passkey, perplexity, positions, sandbox, tasks
from kept.evaluation.catalog import TaskCatalog
from kept.evaluation.chat import template_of
from kept.evaluation.judge import Judge
from kept.evaluation.mt_bench import NAME as MT_BENCH
from kept.evaluation.text_data import read_texts
from kept.evaluation.user_tasks import checked_folder
from kept.verification.text import SAMPLE, sample_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from kept.evaluation.catalog import CatalogTask, TaskGroup
    from kept.evaluation.estimate import Estimate
    from kept.evaluation.result_store import Store
    from kept.evaluation.settings import EvalSettings
    from kept.evaluation.subject import Subject

    Result = dict[str, Any]
    Measure = Callable[[Subject, Store], Result]
    Estimates = Callable[[Result], dict[str, Estimate]]
    Compare = Callable[[Result, Result], dict[str, Estimate]]

TRIALS = 3
"""Passkey prompts per length and depth."""


@dataclass(frozen=True)
class MeasurementPlan:
    """One measurement, and the functions that turn its result into estimates.

    `measure` returns a model's result, from disk if an earlier run stored it. `figures` returns the estimates of one
    model; `compare` those of two models' results, such as texts. `headline` is the metric that counts in the average of
    its part. `groups` are the groups of tasks that it is in, outermost first.
    """

    part: str
    name: str
    measure: Measure
    figures: Estimates | None = None
    compare: Compare | None = None
    headline: str | None = None
    groups: tuple[TaskGroup, ...] = ()


def measurement_plans(settings: EvalSettings) -> Iterator[MeasurementPlan]:
    """Yield the requested measurements in order. Raises InputError if a file or a package is missing."""
    names = settings.tasks
    if settings.texts or not names:
        yield from (_text(settings, name, text) for name, text in _texts(settings, settings.max_characters).items())
    for name in dict.fromkeys(names):
        if name in PARTS:
            yield from PARTS[name](settings)
    others = [name for name in dict.fromkeys(names) if name not in PARTS]
    if others:
        yield from _tasks(settings, others)


def _stored(
    part: str,
    name: str,
    key: Callable[[Subject], Mapping[str, Any]],
    measure: Callable[[Subject], Result],
    read: Callable[[Result], object],
) -> Measure:
    """Return a function that measures once for each model, dtype and `key`, and stores the result.

    `key` must hold everything else that the result depends on. `read` checks a stored result: if it raises, the file is
    damaged.
    """

    def find(subject: Subject, store: Store) -> Result:
        where = {} if subject.device.type == "cpu" else {"device": subject.device.type}
        model = {"model": subject.identity, "dtype": str(subject.dtype), **where, "kept": version("kept")}
        return store.get(f"{part}-{name}", {**model, "name": name, **key(subject)}, lambda: measure(subject), read)

    return find


# ---------------------------------------------------------------------------------------------------------------- texts


def _texts(settings: EvalSettings, characters: int) -> dict[str, str]:
    """Return the first `characters` of each text by domain; the built-in sample if no text is given."""
    found = {name: read_texts(file, characters, settings.text_field) for name, file in settings.texts.items()}
    return found or {"sample": sample_text()}


def _text(settings: EvalSettings, name: str, text: str) -> MeasurementPlan:
    window, stride = settings.window, settings.stride
    origin = str(settings.texts.get(name, SAMPLE))
    find = _stored(
        "text",
        name,
        lambda _: {"text": _sum(text), "window": window, "stride": stride},
        lambda subject: perplexity.measure_text(subject, origin, text, window, stride),
        perplexity.text_estimates,
    )
    return MeasurementPlan("text", name, find, perplexity.text_estimates)


def _positions(settings: EvalSettings) -> Iterator[MeasurementPlan]:
    yield from (_position(settings, name) for name in settings.texts or ("sample",))


def _position(settings: EvalSettings, name: str) -> MeasurementPlan:
    """Return the measurement of perplexity by position on one text. Longer windows read more of the text."""

    def read(subject: Subject) -> tuple[str, int]:
        longest = positions.longest_of(subject, settings.max_length)
        return _texts(settings, max(settings.max_characters, positions.CHARACTERS * longest))[name], longest

    def key(subject: Subject) -> dict[str, Any]:
        text, longest = read(subject)
        return {"text": _sum(text), "max_length": longest}

    def measure(subject: Subject) -> Result:
        return positions.measure_positions(subject, str(settings.texts.get(name, SAMPLE)), *read(subject))

    find = _stored("positions", name, key, measure, positions.position_estimates)
    return MeasurementPlan("positions", name, find, positions.position_estimates)


def _passkey(settings: EvalSettings) -> Iterator[MeasurementPlan]:
    trials, seed = settings.limit or TRIALS, settings.seed
    find = _stored(
        "passkey",
        "passkey",
        lambda subject: {"max_length": settings.max_length or subject.context, "trials": trials, "seed": seed},
        lambda subject: passkey.measure_passkey(subject, settings.max_length or subject.context, trials, seed),
        passkey.passkey_estimates,
    )
    yield MeasurementPlan("passkey", "passkey", find, passkey.passkey_estimates)


def _agreement(settings: EvalSettings) -> Iterator[MeasurementPlan]:
    text = "\n\n".join(_texts(settings, settings.max_characters).values())
    count = settings.limit or agreement.PROMPTS
    find = _stored(
        "agreement",
        "greedy",
        lambda _: {"text": _sum(text), "prompts": count},
        lambda subject: agreement.measure_greedy(subject, text, count),
        lambda found: [
            agreement.agreement_estimates(found, found),
            *zip(found["prompts"], found["texts"], strict=True),
        ],
    )
    yield MeasurementPlan("agreement", "greedy", find, compare=agreement.agreement_estimates)


# ---------------------------------------------------------------------------------------------------------------- tasks


def _tasks(settings: EvalSettings, names: Sequence[str]) -> Iterator[MeasurementPlan]:
    """Yield the tasks of some names, each task once."""
    settings.check_data()
    catalog = TaskCatalog.installed(checked_folder(settings.include_path, code=settings.run_task_code))
    seen: set[str] = set()
    for name in names:
        for task in catalog.tasks(name):
            if task.name not in seen:
                seen.add(task.name)
                find = _task(task, settings)
                yield MeasurementPlan(name, task.name, find, tasks.task_estimates, groups=task.groups)


def _task(task: CatalogTask, settings: EvalSettings) -> Measure:
    options: dict[str, Any] = {"limit": settings.limit, "shots": settings.num_fewshot}
    chat = settings.apply_chat_template
    run = tasks.prepared(task, settings.data, **options, batch=settings.batch_size, chat=chat, date=_date(settings))
    fences = sandbox.fences(unsafe=settings.unsafe) if task.name == "humaneval" else None
    made = {**options, "fences": fences, "changes": _plain(task.changes), "lm_eval": version("lm_eval")}
    made |= {"prompts": _sum(task.file.read_text(encoding="utf-8"))} if task.file else {}

    def key(subject: Subject) -> dict[str, Any]:
        chat_key = {"chat": template_of(subject, settings.chat_date).described()} if chat else {}
        return {**made, **chat_key, "documents": run.documents_key(), "samples": settings.log_samples}

    def find(subject: Subject, store: Store) -> Result:
        file = store.directory / f"samples-{task.name}-{subject.identity[:12]}.jsonl" if settings.log_samples else None
        measure = partial(tasks.measure_task, run=run, samples=file)
        found = _stored("task", task.name, key, measure, tasks.task_estimates)(subject, store)
        if file is not None and not file.is_file():
            raise InputError(f"{file}: is gone; remove the results of {task.name} in {store.directory} to write it")
        return found

    return find


def _plain(changes: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in changes.items()}


def _date(settings: EvalSettings) -> str:
    return settings.chat_date or ""


def _mt_bench(settings: EvalSettings) -> Iterator[MeasurementPlan]:
    asked = mt_bench.questions(settings.folder(MT_BENCH), settings.limit)
    judge = None if settings.judge is None else Judge(settings.judge, settings.judge_model)
    for category, questions in asked.items():
        answers = _answers(settings, category, questions)
        yield MeasurementPlan(MT_BENCH, f"{category} answers", answers, compare=mt_bench.agreement_of_answers)
        if judge is not None:
            scores = _scores(judge, category, questions, answers)
            yield MeasurementPlan(MT_BENCH, category, scores, mt_bench.score_estimates, headline="score")


def _answers(settings: EvalSettings, category: str, questions: Sequence[mt_bench.Question]) -> Measure:
    def key(subject: Subject) -> dict[str, Any]:
        template = template_of(subject, settings.chat_date) if settings.apply_chat_template else None
        dated = {} if template is None or not template.dated else {"date": template.date}
        return {"questions": questions, "chat": settings.apply_chat_template, **dated}

    def measure(subject: Subject) -> dict[str, Any]:
        template = template_of(subject, settings.chat_date) if settings.apply_chat_template else None
        return mt_bench.measure_answers(subject, questions, template)

    return _stored(
        MT_BENCH,
        f"{category} answers",
        key,
        measure,
        lambda found: mt_bench.agreement_of_answers(found, found),
    )


def _scores(judge: Judge, category: str, questions: Sequence[mt_bench.Question], answers: Measure) -> Measure:
    """Return the measurement of a judge's scores, which depend on the answers and the judge only."""

    def find(subject: Subject, store: Store) -> Result:
        answered = answers(subject, store)
        key = {"judge": judge.url, "model": judge.model, "questions": questions, "answers": answered}
        measure = partial(mt_bench.measure_scores, judge, questions, answered, subject.reporter, store.journal)
        return store.get(f"{MT_BENCH}-{category}", key, measure, mt_bench.score_estimates)

    return find


def _sum(text: str) -> str:
    return sha256(text.encode()).hexdigest()


PARTS: Mapping[str, Callable[[EvalSettings], Iterator[MeasurementPlan]]] = {
    "positions": _positions,
    "passkey": _passkey,
    "agreement": _agreement,
    MT_BENCH: _mt_bench,
}
"""Measurements by name that are not suites of lm-eval tasks."""
