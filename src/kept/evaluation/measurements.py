"""The pieces of an evaluation: each is measured on one model alone, kept on disk, and read as figures."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from kept.checkpoint.byte_stream import digest
from kept.errors import InputError
from kept.evaluation import agreement, mt_bench, passkey, perplexity, positions, sandbox, tasks
from kept.evaluation.judge import Judge
from kept.evaluation.tasks import MT_BENCH
from kept.verification.text import SAMPLE, read_text, sample_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from kept.evaluation.estimate import Estimate
    from kept.evaluation.result_store import Store
    from kept.evaluation.settings import EvalSettings
    from kept.evaluation.subject import Subject

    Found = dict[str, Any]
    Find = Callable[[Subject, Store], Found]
    Figures = Callable[[Found], dict[str, Estimate]]
    Alike = Callable[[Found, Found], dict[str, Estimate]]

TRIALS = 3
"""Riddles of each length and depth."""


@dataclass(frozen=True)
class MeasurementPlan:
    """One thing to measure, and how its result is read.

    `find` measures a model, or finds on disk what an earlier run measured. `figures` are those of one model; `alike`
    compares two models' results where these are no figures. `headline` is the metric that counts in averages, and
    `group` the name of the many tasks that this is one of.
    """

    part: str
    name: str
    find: Find
    figures: Figures | None = None
    alike: Alike | None = None
    headline: str | None = None
    group: str | None = None


def pieces(settings: EvalSettings) -> Iterator[MeasurementPlan]:
    """Every piece that is asked for, in order. Raises InputError where a file or a package is missing."""
    names = settings.suites
    if settings.texts or not names:
        yield from (_text(settings, name, text) for name, text in _texts(settings, settings.characters).items())
    for name in dict.fromkeys(names):
        yield from PARTS[name](settings) if name in PARTS else _suite(settings, name)


def _once(
    part: str,
    name: str,
    key: Callable[[Subject], Mapping[str, Any]],
    measure: Callable[[Subject], Found],
    read: Callable[[Found], object],
) -> Find:
    """Measures once for each model, dtype and `key`, which says all else that the result depends on.

    `read` is what figures are made by: a result on disk that it trips over is damaged.
    """

    def find(subject: Subject, store: Store) -> Found:
        model = {"model": subject.identity, "dtype": str(subject.dtype), "kept": version("kept")}
        return store.get(f"{part}-{name}", {**model, "name": name, **key(subject)}, lambda: measure(subject), read)

    return find


# ---------------------------------------------------------------------------------------------------------------- texts


def _texts(settings: EvalSettings, characters: int) -> dict[str, str]:
    """The beginning of each text by domain; the built-in sample where there is none."""
    found = {name: read_text(file, characters) for name, file in settings.texts.items()}
    return found or {"sample": sample_text()}


def _text(settings: EvalSettings, name: str, text: str) -> MeasurementPlan:
    window, stride = settings.window, settings.stride
    origin = str(settings.texts.get(name, SAMPLE))
    find = _once(
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
    """By position, of one text: more of it is read where windows are long."""

    def read(subject: Subject) -> tuple[str, int]:
        longest = positions.longest_of(subject, settings.longest)
        return _texts(settings, max(settings.characters, positions.CHARACTERS * longest))[name], longest

    def key(subject: Subject) -> dict[str, Any]:
        text, longest = read(subject)
        return {"text": _sum(text), "longest": longest}

    def measure(subject: Subject) -> Found:
        return positions.measure_positions(subject, str(settings.texts.get(name, SAMPLE)), *read(subject))

    find = _once("positions", name, key, measure, positions.position_estimates)
    return MeasurementPlan("positions", name, find, positions.position_estimates)


def _passkey(settings: EvalSettings) -> Iterator[MeasurementPlan]:
    trials, seed = settings.limit or TRIALS, settings.seed
    find = _once(
        "passkey",
        "passkey",
        lambda subject: {"longest": settings.longest or subject.context, "trials": trials, "seed": seed},
        lambda subject: passkey.measure_passkey(subject, settings.longest or subject.context, trials, seed),
        passkey.passkey_estimates,
    )
    yield MeasurementPlan("passkey", "passkey", find, passkey.passkey_estimates)


def _agreement(settings: EvalSettings) -> Iterator[MeasurementPlan]:
    text = "\n\n".join(_texts(settings, settings.characters).values())
    count = settings.limit or agreement.PROMPTS
    find = _once(
        "agreement",
        "greedy",
        lambda _: {"text": _sum(text), "prompts": count},
        lambda subject: agreement.measure_greedy(subject, text, count),
        lambda found: [
            agreement.agreement_estimates(found, found),
            *zip(found["prompts"], found["texts"], strict=True),
        ],
    )
    yield MeasurementPlan("agreement", "greedy", find, alike=agreement.agreement_estimates)


# ---------------------------------------------------------------------------------------------------------------- tasks


def _suite(settings: EvalSettings, name: str) -> Iterator[MeasurementPlan]:
    data = settings.folder(name)
    try:
        release = version("lm_eval")
    except PackageNotFoundError:
        raise InputError(f"{name}: needs lm-eval, which is not installed: pip install 'kept[eval]'") from None
    for member in tasks.SUITES.get(name, (name,)):
        for task in tasks.members(member, data):
            find = _task(task, settings, data, release)
            group = member if member in tasks.GROUPS else None
            yield MeasurementPlan(name, task.name, find, tasks.task_estimates, headline=task.headline, group=group)


def _task(task: tasks.Task, settings: EvalSettings, data: Path, release: str) -> Find:
    limit = settings.limit
    files = tasks.sources(task, data)  # what is missing is said before anything is measured
    fences = sandbox.fences(unsafe=settings.unsafe) if task.name == "humaneval" else None

    def key(_: Subject) -> dict[str, Any]:
        sums = {file.name: digest(file) for file in files}
        return {"files": sums, "shots": task.shots, "limit": limit, "lm_eval": release, "fences": fences}

    return _once(
        "task",
        task.name,
        key,
        lambda subject: tasks.measure_task(subject, task, data, limit),
        lambda found: tasks.task_estimates(found)[task.headline],
    )


def _mt_bench(settings: EvalSettings) -> Iterator[MeasurementPlan]:
    asked = mt_bench.questions(settings.folder(MT_BENCH), settings.limit)
    judge = None if settings.judge is None else Judge(settings.judge, settings.judge_model)
    for category, questions in asked.items():
        answers = _answers(settings, category, questions)
        yield MeasurementPlan(MT_BENCH, f"{category} answers", answers, alike=mt_bench.agreement_of_answers)
        if judge is not None:
            scores = _scores(judge, category, questions, answers)
            yield MeasurementPlan(MT_BENCH, category, scores, mt_bench.score_estimates, headline="score")


def _answers(settings: EvalSettings, category: str, questions: Sequence[mt_bench.Question]) -> Find:
    def key(subject: Subject) -> dict[str, Any]:
        template = mt_bench.template_of(subject, settings.chat_date) if settings.chat else None
        dated = {} if template is None or not template.dated else {"date": template.date}
        return {"questions": questions, "chat": settings.chat, **dated}

    def measure(subject: Subject) -> dict[str, Any]:
        template = mt_bench.template_of(subject, settings.chat_date) if settings.chat else None
        return mt_bench.measure_answers(subject, questions, template)

    return _once(
        MT_BENCH,
        f"{category} answers",
        key,
        measure,
        lambda found: mt_bench.agreement_of_answers(found, found),
    )


def _scores(judge: Judge, category: str, questions: Sequence[mt_bench.Question], answers: Find) -> Find:
    """A judge's scores depend on the answers, and on no model but the judge."""

    def find(subject: Subject, store: Store) -> Found:
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
"""What is asked for by name and is no suite of tasks."""
