"""Healing: a converted model learns what the conversion could not keep, and is written as a checkpoint again."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import read_json
from kept.checkpoint.place import check_apart, check_place
from kept.checkpoint.staging import check_target
from kept.commands.finishing import Course, Draft
from kept.commands.lessons import Pair, Watched, chat_date, dtype_of, pairs_of, read_paths, stream, sums
from kept.distillation.folder import alone, asked_before, begin, clear, hold
from kept.distillation.settings import CADENCE
from kept.distillation.trainable import Trainable, trainable
from kept.output.record import RECORD
from kept.reporting import Reporter, Silent, shows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from kept.distillation.loop import Loop, Measured
    from kept.distillation.metrics import Metrics
    from kept.distillation.offline import Cached
    from kept.distillation.packing import Stream
    from kept.distillation.parallel import Ranks, Trunk
    from kept.distillation.settings import Settings
    from kept.verification.verify import Verification

RUN = ".kept-healing"
"""What the name of the directory beside the output ends with, in which a run keeps its checkpoints and metrics."""


@dataclass(frozen=True)
class Healed:
    """A finished run: where the result is, what learned, and the held-out measurements from the first to the last.

    `run` is the directory with its metrics: `metrics.jsonl`, and files for TensorBoard where that is installed.
    `verification` is the result measured against its teacher: None without one, and on any rank but the first.
    """

    path: Path
    learned: Trainable
    history: tuple[Measured, ...]
    record: Mapping[str, Any]
    run: Path
    verification: Verification | None = None

    @property
    def best(self) -> Measured:
        """The measurement whose weights were written."""
        from kept.distillation.loop import best_of

        return best_of(self.history)


def heal(
    settings: Settings, reporter: Reporter | None = None, watch: Callable[[Mapping[str, Any]], None] | None = None
) -> Healed:
    """Train a student on what its teacher puts out, and write it with the weights of its best measurement.

    Started again with the same settings, a run that was killed goes on; metrics, and until it has ended checkpoints,
    are in a directory beside the output. What is written is measured against the teacher before it has its name.
    `watch` is given each line of metrics. Raises InputError where the two models do not belong together, OutputError
    where the disk refuses, Diverged where the loss is no number or far above those before, PromiseError where the
    result puts out what is no number, and what reading the data raises.
    """
    target = Path(settings.out)
    _sweep(target, settings)
    check_target(target)  # before torch is imported, which takes seconds

    from kept.distillation.metrics import Metrics
    from kept.distillation.parallel import ranks

    pair = Pair.open(settings)
    for opened, called in ((pair.student, "the student"), (pair.teacher, "the teacher")):
        if opened is not None:
            check_place(opened.source, target, called)
    check_apart(target, read_paths(settings))
    pairs_of(settings, pair)  # raises before any text is read
    draft = Draft.of(pair)
    learned = trainable(pair.student.program, settings.train, draft.record, settings.lora_rank, settings.lora_alpha)
    folder = _folder(target)
    with ranks() as all_ranks:
        date = all_ranks.agreed(chat_date(settings, pair, asked_before(folder)))
        settings = replace(settings, chat_date=date)
        shown = reporter if reporter is not None and all_ranks.first else Silent()
        texts = stream(settings, pair, shown)
        watched = Watched.of(settings, pair, texts, shown)
        with alone(folder, all_ranks):
            read = all_ranks.once(lambda: _begin(folder, settings, pair, texts, watched)) or {}
            metrics = Metrics(folder, watch or (lambda _: None), quiet=not all_ranks.first)
            loop = _loop(settings, pair, learned, texts, watched, metrics, all_ranks)
            metrics.note(_about(settings, learned, loop, pair.cache))
            best = loop.run()
            metrics.note({"kind": "end", "step": loop.step})
            course = Course(settings, learned, texts.counts, read, loop.history)
            found = _finish(draft, course, loop, best, shown) if all_ranks.first else None
            all_ranks.meet()
    return Healed(target, learned, tuple(loop.history), read_json(target / RECORD), folder, found)


def _folder(target: Path) -> Path:
    """Return the run directory of an output: checkpoints, metrics and state."""
    return target.with_name(f".{target.name}{RUN}")


def _sweep(target: Path, settings: Settings) -> None:
    """Remove the checkpoints of the same command's run that was killed after its output was published."""
    if not (shows() and target.name and (target / RECORD).is_file() and any(_folder(target).glob("step-*"))):
        return
    folder = _folder(target)
    with ExitStack() as held:
        hold(folder, held)
        before = asked_before(folder)
        if all(before.get(key) == value for key, value in _asked(settings).items() if key != "chat_date"):
            clear(folder, "step-*")


def _asked(settings: Settings) -> dict[str, Any]:
    """Return the settings that must be equal for a run to be continued, in their JSON form."""
    asked = {key: value for key, value in settings.to_dict().items() if key not in CADENCE}
    found: dict[str, Any] = json.loads(json.dumps(asked))
    return found


def _begin(folder: Path, settings: Settings, pair: Pair, texts: Stream, watched: Watched) -> dict[str, str]:
    """Begin a run, or find it as the same command on the same files left it. Returns the sums of these files."""
    check_target(Path(settings.out))  # again: the run that held the directory may just have finished
    read = sums(settings, pair, texts.mixture, watched)
    begin(folder, _asked(settings), read)
    return read


def _loop(
    settings: Settings,
    pair: Pair,
    learned: Trainable,
    texts: Stream,
    watched: Watched,
    metrics: Metrics,
    ranks: Ranks,
) -> Loop:
    """Both models in memory, where the teacher is not read from its cache, and the run as far as it is."""
    from kept.distillation.loop import Loop
    from kept.distillation.parallel import load
    from kept.distillation.states import States

    dtype, modes = dtype_of(settings), {"checkpointing": settings.checkpointing, "compiled": settings.compile}
    student = load(pair.student.program, dtype, ranks, learned, **modes)
    teacher: Trunk | Cached | None = pair.cache
    if teacher is None and pair.teacher is not None:
        teacher = load(pair.teacher.program, dtype, ranks, compiled=settings.compile)
    states, pairs = States(metrics.folder, ranks), pairs_of(settings, pair)
    return Loop(settings, ranks, student, teacher, texts, states, metrics, watched.rows, pairs)


def _finish(
    draft: Draft, course: Course, loop: Loop, best: Mapping[str, Tensor], reporter: Reporter
) -> Verification | None:
    """The result under its name, and measured; the checkpoints, which no run will ask for again, are gone."""
    from kept.distillation.lora import merged

    weights = merged(draft.pair.student.program, best, course.learned.lora)
    found = draft.write(course.learned.weights(draft.pair.student.program, weights), course, reporter)
    clear(loop.states.directory, "step-*")
    return found


def _about(settings: Settings, learned: Trainable, loop: Loop, cache: Cached | None) -> dict[str, Any]:
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
