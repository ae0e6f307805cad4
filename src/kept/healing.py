"""Healing: a converted model learns what the conversion could not keep, and is written as a checkpoint again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.companions import companions
from kept.checkpoint.reader import read_json
from kept.checkpoint.staging import check_target, staging
from kept.checkpoint.stream import digest
from kept.checkpoint.writer import shards, to_json
from kept.distillation.cache import write_file
from kept.distillation.settings import SELF, Settings
from kept.distillation.trainable import Trainable, trainable
from kept.errors import InputError, OutputError
from kept.opened import Opened, open_model
from kept.record import RECORD
from kept.reporting import Reporter, Silent
from kept.writing import write_small, write_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from kept.distillation.loop import Loop, Measured
    from kept.distillation.mixture import Mixture
    from kept.distillation.offline import Cached
    from kept.distillation.packing import Stream
    from kept.distillation.parallel import Ranks
    from kept.distillation.tokens import Tokens
    from kept.ir.tensors import Lazy

RUN = ".kept-healing"
"""What the name of the directory beside the output ends with, in which a run keeps its checkpoints and metrics."""


@dataclass(frozen=True)
class Healed:
    """A finished run: where the result is, what learned, and the held-out measurements from the first to the last.

    `run` is the directory with its metrics: `metrics.jsonl`, and files for TensorBoard where that is installed.
    """

    path: Path
    learned: Trainable
    history: tuple[Measured, ...]
    record: Mapping[str, Any]
    run: Path


def heal(
    settings: Settings, reporter: Reporter | None = None, watch: Callable[[Mapping[str, Any]], None] | None = None
) -> Healed:
    """Train a student on what its teacher puts out, and write it with the weights of its best measurement.

    Started again with the same settings, a run that was killed goes on; metrics, and until it has ended checkpoints,
    are in a directory beside the output. `watch` is given each line of metrics. Raises InputError where the two models
    do not belong together, OutputError where the disk refuses, Diverged where the loss is no number or far above those
    before, and what reading the data raises.
    """
    from kept.distillation.loop import Loop
    from kept.distillation.lora import merged
    from kept.distillation.metrics import Metrics
    from kept.distillation.offline import Cached
    from kept.distillation.parallel import load, ranks
    from kept.distillation.states import States, clear

    target = Path(settings.out)
    check_target(target)
    student = open_model(settings.student)
    teacher = None if settings.teacher is None else open_model(settings.teacher)
    cache = None if settings.teacher_cache is None else Cached.open(Path(settings.teacher_cache))
    check_pair(student, teacher, settings.length)
    learned = trainable(student.program, settings.train, _recorded(student), settings.lora_rank, settings.lora_alpha)
    folder = target.with_name(f".{target.name}{RUN}")
    with ranks() as all_ranks:
        shown = reporter if reporter is not None and all_ranks.first else Silent()
        stream = _stream(settings, student, teacher, cache, shown)
        _begin(folder, {**settings.to_dict(), "read": stream.mixture.counts}, all_ranks)
        dtype = dtype_of(settings)
        metrics = Metrics(folder, watch or (lambda _: None), quiet=not all_ranks.first)
        loop = Loop(
            settings,
            all_ranks,
            load(
                student.program,
                dtype,
                all_ranks,
                learned,
                checkpointing=settings.checkpointing,
                compiled=settings.compile,
            ),
            cache
            if cache is not None or teacher is None
            else load(teacher.program, dtype, all_ranks, compiled=settings.compile),
            stream,
            States(folder, all_ranks),
            metrics,
        )
        metrics.note(_about(settings, learned, loop))
        best = loop.run()
        metrics.note({"kind": "end", "step": loop.step})
        if all_ranks.first:
            weights = merged(student.program, best, learned.lora)
            _write(student, weights, settings, loop.history, cache, shown)
            clear(folder, "step-*")
        all_ranks.meet()
    return Healed(target, learned, tuple(loop.history), read_json(target / RECORD), folder)


def check_pair(student: Opened, teacher: Opened | None, length: int) -> None:
    """Raise InputError where rows are longer than a model's positions, or the two read other tokens."""
    from kept.verification.text import Reader, difference

    check_sizes(student, teacher, length)
    if teacher is None:
        return
    found = difference(Reader(student.path), Reader(teacher.path))
    if found is not None:
        raise InputError(
            f"{student.path}: has another tokenizer than its teacher {teacher.path}: {found}; "
            "name the model that it was converted from"
        )


def check_sizes(student: Opened, teacher: Opened | None, length: int) -> None:
    """The part of it that configs tell: positions, and how many tokens there are."""
    for opened in filter(None, (student, teacher)):
        if length > opened.program.spec.context:
            raise InputError(
                f"length: is {length}, {opened.path} has {opened.program.spec.context} positions; make rows shorter"
            )
    if teacher is None:
        return
    sizes = student.program.spec.vocabulary, teacher.program.spec.vocabulary
    if sizes[0] != sizes[1]:
        raise InputError(
            f"{student.path}: has {sizes[0]} tokens, its teacher {teacher.path} has {sizes[1]}; "
            "name the model that it was converted from"
        )


def _begin(folder: Path, asked: Mapping[str, Any], ranks: Ranks) -> None:
    """Make the directory of a run, or find it as the same command left it. A run without a checkpoint never began."""
    file = folder / "settings.json"
    if ranks.first and not any(folder.glob("step-*[0-9]")):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_file(file, to_json(asked))
        except OSError as error:
            raise OutputError(
                f"{folder}: cannot be written ({error.strerror or error}); free space or permissions?"
            ) from None
    ranks.meet()
    found = read_json(file) if file.is_file() else {}
    changed = [key for key, value in json.loads(to_json(asked)).items() if found.get(key) != value]
    if changed:
        raise InputError(
            f"{folder}: is a run with other settings ({', '.join(changed)}); "
            "give them again, remove it, or choose another --out"
        )


def _about(settings: Settings, learned: Trainable, loop: Loop) -> dict[str, Any]:
    """The first line of a run: what learns, what that takes, how long, and from what."""
    return {
        "kind": "run",
        "step": loop.step,
        "steps": settings.steps,
        "tokens_a_step": settings.tokens_a_step,
        "ranks": loop.ranks.count,
        "train": settings.train,
        "parameters": learned.parameters,
        "of": learned.of,
        "optimiser_bytes": learned.optimiser_bytes,
        "sources": loop.stream.mixture.counts,
        "tensorboard": loop.metrics.has_board,
    }


def _recorded(student: Opened) -> Mapping[str, Any]:
    file = student.path / RECORD
    return read_json(file) if file.is_file() else {}


def _write(
    student: Opened,
    weights: Mapping[str, Lazy],
    settings: Settings,
    history: list[Measured],
    cache: Cached | None,
    reporter: Reporter,
) -> None:
    """Write the student with what it learned, as its family does."""
    program = student.program.updated(student.program.spec, weights)
    parts = shards(student.family.write(program))
    target = Path(settings.out)
    measured = [{**asdict(one), **one.losses} for one in history]
    with staging(target, {"settings": dict(settings.to_dict()), "measured": measured}) as stage:
        small = write_small(stage, parts, dict(student.config), companions(student.path, program.spec))
        hashes = write_weights(stage, parts, student, reporter)
        hashes["output"].update({name: digest(stage.path / name) for name in small})
        healed = {"settings": {k: v for k, v in settings.to_dict().items() if k != "out"}, "held_out": measured}
        record = {
            **_recorded(student),
            "healed": healed if cache is None else {**healed, "teacher_cache": cache.about},
            "files": hashes["output"],
        }
        stage.write(RECORD, to_json(record))
        stage.publish()


def dtype_of(settings: Settings) -> torch.dtype:
    """That of the arithmetic."""
    import torch

    made: torch.dtype = getattr(torch, settings.precision)
    return made


def _stream(
    settings: Settings, student: Opened, teacher: Opened | None, cache: Cached | None, reporter: Reporter
) -> Stream:
    """The tokens to learn from, in rows that are cut anew each epoch, or in those that a teacher's cache has."""
    from kept.distillation.packing import Stream, check
    from kept.distillation.rows import Rows, RowStream

    found = mixture(settings, student, teacher, reporter)
    if cache is None:
        stream = Stream(found, settings.batch, settings.length, settings.seed)
    else:
        cache.require(named(settings, student, teacher, found))
        stream = RowStream(Rows(found, settings.length, cache.about["counts"]), settings.batch, settings.seed)
    check(stream, student.program.spec.vocabulary, student.program.spec.context)
    return stream


def mixture(settings: Settings, student: Opened, teacher: Opened | None, reporter: Reporter) -> Mixture:
    """The tokens to learn from and to measure on: texts, or what the teacher says."""
    from kept.distillation.mixture import Mixture, parse_weights

    weights = None if settings.mixture is None else parse_weights(settings.mixture)
    sources = _sampled(settings, teacher, reporter) if settings.data == (SELF,) else _texts(settings, student, reporter)
    return Mixture(sources, weights, settings.hold_out)


def named(settings: Settings, student: Opened, teacher: Opened | None, found: Mixture) -> dict[str, Any]:
    """What a teacher's cache must have been made of for a run; without the teacher itself that is not compared."""
    from kept.distillation.offline import FORMAT, data_sum
    from kept.distillation.sampled import teacher_sum

    return {
        "format": FORMAT,
        "vocabulary": student.program.spec.vocabulary,
        "length": settings.length,
        "hold_out": settings.hold_out,
        "temperature": settings.temperature,
        "data": data_sum(found),
        **({} if teacher is None else {"teacher": teacher_sum(teacher)}),
    }


def _texts(settings: Settings, student: Opened, reporter: Reporter) -> dict[str, Tokens]:
    from kept.distillation.documents import Source
    from kept.distillation.tokens import tokenise
    from kept.verification.text import Reader

    sources: dict[str, Tokens] = {}
    for given in settings.data:
        name, _, path = given.rpartition("=")
        sources[name or Path(path).stem] = tokenise(Source((Path(path),)), Reader(student.path), reporter=reporter)
    return sources


def _sampled(settings: Settings, teacher: Opened | None, reporter: Reporter) -> dict[str, Tokens]:
    from kept.distillation.sampled import Sampling, sampled, teacher_sum
    from kept.nn import Model

    assert teacher is not None, "settings ask for one"
    length = min(settings.length, teacher.program.spec.context)
    sampling = Sampling(-(-settings.tokens // length), length, seed=settings.seed)
    model = Model.load(teacher.program, dtype_of(settings))
    return {SELF: sampled(model, teacher_sum(teacher), sampling, reporter=reporter)}
