"""Healing: a converted model learns what the conversion could not keep, and is written as a checkpoint again."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import read_json
from kept.checkpoint.output_path import check_apart, check_place
from kept.checkpoint.staging import check_target
from kept.commands.export_healed import HealedExport, RunSummary
from kept.commands.heal_inputs import (
    TeacherStudent,
    WatchedTexts,
    chat_date,
    dtype_of,
    pairs_of,
    read_paths,
    stream,
    sums,
)
from kept.distillation.settings import CADENCE
from kept.distillation.train.run_directory import alone, asked_before, begin, clear, hold
from kept.distillation.train.trainable import Trainable, trainable
from kept.output.record import RECORD
from kept.reporting import Reporter, Silent, shows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from kept.distillation.data.packing import BatchStream
    from kept.distillation.settings import HealSettings
    from kept.distillation.teacher_cache import TeacherCache
    from kept.distillation.train.metrics import Metrics
    from kept.distillation.train.parallel import Backbone, Ranks
    from kept.distillation.train.trainer import Measurement, Trainer
    from kept.verification.verify import Verification

RUN = ".kept-healing"
"""What the name of the directory beside the output ends with, in which a run keeps its checkpoints and metrics."""


@dataclass(frozen=True)
class HealResult:
    """A finished run: where the result is, what learned, and the held-out measurements from the first to the last.

    `run` is the directory with its metrics: `metrics.jsonl`, and files for TensorBoard where that is installed.
    `verification` is the result measured against its teacher: None without one, and on any rank but the first.
    """

    path: Path
    learned: Trainable
    history: tuple[Measurement, ...]
    record: Mapping[str, Any]
    run: Path
    verification: Verification | None = None

    @property
    def best(self) -> Measurement:
        """The measurement whose weights were written."""
        from kept.distillation.train.trainer import best_of

        return best_of(self.history)


def heal(
    settings: HealSettings, reporter: Reporter | None = None, watch: Callable[[Mapping[str, Any]], None] | None = None
) -> HealResult:
    """Distil a teacher into a student, or train the student on text, and write the weights of the best measurement.

    The same call continues a run that was interrupted. Metrics and checkpoints are in a hidden directory beside the
    output. The result is compared with the teacher before it gets its name.

    Args:
        settings: student, output, teacher, data, losses, trainable parameters and schedule.
        reporter: is told about notes and progress.
        watch: is called with each line of metrics.

    Returns:
        Output path, held-out measurements, record, and the comparison with the teacher (None without a teacher).

    Raises:
        InputError: the two models or their tokenizers do not fit together, or the data cannot be read.
        Diverged: the loss is NaN, Inf or far above the previous ones.
        OutputError: the output cannot be written.
        PromiseError: the result has NaN or Inf in its logits.

    Example:
        ```python
        settings = kept.HealSettings("out/plain", "out/healed", teacher="path/to/orion", tokens=2_000_000)
        print(kept.heal(settings).history[-1].losses)
        ```
    """
    target = Path(settings.out)
    _sweep(target, settings)
    check_target(target)  # before torch is imported, which takes seconds

    from kept.distillation.train.metrics import Metrics
    from kept.distillation.train.parallel import ranks

    pair = TeacherStudent.open(settings)
    for opened, called in ((pair.student, "the student"), (pair.teacher, "the teacher")):
        if opened is not None:
            check_place(opened.source, target, called)
    check_apart(target, read_paths(settings))
    pairs_of(settings, pair)  # raises before any text is read
    draft = HealedExport.of(pair)
    made = None if draft.record is None else draft.record.table()
    learned = trainable(pair.student.program, settings.train, made, settings.lora_rank, settings.lora_alpha)
    folder = _folder(target)
    with ranks() as all_ranks:
        date = all_ranks.agreed(chat_date(settings, pair, asked_before(folder)))
        settings = replace(settings, chat_date=date)
        shown = reporter if reporter is not None and all_ranks.first else Silent()
        texts = stream(settings, pair, shown)
        watched = WatchedTexts.of(settings, pair, texts, shown)
        with alone(folder, all_ranks):
            read = all_ranks.once(lambda: _begin(folder, settings, pair, texts, watched)) or {}
            metrics = Metrics(folder, watch or (lambda _: None), quiet=not all_ranks.first)
            loop = _loop(settings, pair, learned, texts, watched, metrics, all_ranks)
            metrics.note(_about(settings, learned, loop, pair.cache))
            best = loop.run()
            metrics.note({"kind": "end", "step": loop.step})
            course = RunSummary(settings, learned, texts.counts, read, loop.history)
            found = _finish(draft, course, loop, best, shown) if all_ranks.first else None
            all_ranks.meet()
    return HealResult(target, learned, tuple(loop.history), read_json(target / RECORD), folder, found)


def _folder(target: Path) -> Path:
    """Return the run directory of an output: checkpoints, metrics and state."""
    return target.with_name(f".{target.name}{RUN}")


def _sweep(target: Path, settings: HealSettings) -> None:
    """Remove the checkpoints of the same command's run that was killed after its output was published."""
    if not (shows() and target.name and (target / RECORD).is_file() and any(_folder(target).glob("step-*"))):
        return
    folder = _folder(target)
    with ExitStack() as held:
        hold(folder, held)
        before = asked_before(folder)
        if all(before.get(key) == value for key, value in _asked(settings).items() if key != "chat_date"):
            clear(folder, "step-*")


def _asked(settings: HealSettings) -> dict[str, Any]:
    """Return the settings that must be equal for a run to be continued, in their JSON form."""
    asked = {key: value for key, value in settings.to_dict().items() if key not in CADENCE}
    found: dict[str, Any] = json.loads(json.dumps(asked))
    return found


def _begin(
    folder: Path, settings: HealSettings, pair: TeacherStudent, texts: BatchStream, watched: WatchedTexts
) -> dict[str, str]:
    """Begin a run, or find it as the same command on the same files left it. Returns the sums of these files."""
    check_target(Path(settings.out))  # again: the run that held the directory may just have finished
    read = sums(settings, pair, texts.mixture, watched)
    begin(folder, _asked(settings), read)
    return read


def _loop(
    settings: HealSettings,
    pair: TeacherStudent,
    learned: Trainable,
    texts: BatchStream,
    watched: WatchedTexts,
    metrics: Metrics,
    ranks: Ranks,
) -> Trainer:
    """Both models in memory, where the teacher is not read from its cache, and the run as far as it is."""
    from kept.distillation.train.parallel import load
    from kept.distillation.train.run_checkpoints import RunCheckpoints
    from kept.distillation.train.trainer import Trainer

    dtype, modes = dtype_of(settings), {"checkpointing": settings.gradient_checkpointing, "compiled": settings.compile}
    student = load(pair.student.program, dtype, ranks, learned, **modes)
    teacher: Backbone | TeacherCache | None = pair.cache
    if teacher is None and pair.teacher is not None:
        teacher = load(pair.teacher.program, dtype, ranks, compiled=settings.compile)
    states, pairs = RunCheckpoints(metrics.folder, ranks), pairs_of(settings, pair)
    return Trainer(settings, ranks, student, teacher, texts, states, metrics, watched.rows, pairs)


def _finish(
    draft: HealedExport, course: RunSummary, loop: Trainer, best: Mapping[str, Tensor], reporter: Reporter
) -> Verification | None:
    """The result under its name, and measured; the checkpoints, which no run will ask for again, are gone."""
    from kept.distillation.train.lora import merged

    weights = merged(draft.pair.student.program, best, course.learned.lora)
    found = draft.write(course.learned.weights(draft.pair.student.program, weights), course, reporter)
    clear(loop.states.directory, "step-*")
    return found


def _about(settings: HealSettings, learned: Trainable, loop: Trainer, cache: TeacherCache | None) -> dict[str, Any]:
    """The first line of a run: what learns, what that takes, how long, and from what."""
    return {
        "kind": "run",
        "step": loop.step,
        "steps": settings.steps,
        "tokens_a_step": settings.tokens_a_step,
        "tokens_asked": settings.tokens,
        "teacher_cache": None
        if cache is None
        else {"path": str(cache.path), "k": cache.about["k"], "tail": cache.tail},
        "ranks": loop.ranks.count,
        "train": settings.train,
        "parameters": learned.parameters,
        "of": learned.of,
        "optimiser_bytes": learned.optimiser_bytes,
        "sources": loop.stream.counts,
        "watched": [*loop.watched],
        "tensorboard": loop.metrics.has_board,
    }
