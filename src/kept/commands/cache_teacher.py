"""A teacher's answers, written once: what `kept heal --teacher-cache` reads instead of running it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.output_path import check_apart
from kept.commands.heal_inputs import (
    TeacherStudent,
    blamed_teacher,
    chat_date,
    check_pair,
    dtype_of,
    mixture,
    named,
    read_paths,
)
from kept.distillation.settings import LISTED
from kept.errors import InputError, OutputError
from kept.loaded import open_model
from kept.reporting import Reporter, Silent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.distillation.settings import HealSettings


@dataclass(frozen=True)
class CachedTeacher:
    """A finished cache: where it is, its size, and what it was made of; `about["bias"]` is what K tokens lose."""

    path: Path
    nbytes: int
    about: Mapping[str, Any]


def cache_teacher(settings: HealSettings, k: int = LISTED, reporter: Reporter | None = None) -> CachedTeacher:
    """Run the teacher once over the data, and store the `k` most likely tokens at each position.

    Training runs with the same data, sequence length, held-out part and temperature read the result, whatever their
    seed, batch size, mixture and number of epochs. The same call continues after an interruption.

    Args:
        settings: `teacher`, `data` and `tokens` say what is read; `out` is the directory of the cache.
        k: number of tokens stored for each distribution, with the probability mass of all others.
        reporter: is told about progress.

    Returns:
        Path and bytes of the cache, and its record with the bias of the KL, measured against the settings' student (or,
        if that is the teacher itself, against the teacher without its last layer).

    Raises:
        InputError: settings or data do not fit, or `out` is a cache of something else.

    Example:
        ```python
        settings = kept.HealSettings("out/plain", "out/cache", teacher="path/to/orion", data=("corpus/",))
        kept.cache_teacher(settings, k=64)
        ```
    """
    from kept.distillation.data.packed_rows import PackedRows, counts
    from kept.distillation.teacher_cache import write
    from kept.distillation.train.parallel import load, ranks

    watch = reporter or Silent()
    assert settings.teacher is not None, "settings ask for one"
    _check(k, Path(settings.out))
    models = [open_model(path) for path in dict.fromkeys((settings.teacher, settings.student))]
    teacher, student = models[0], models[-1]
    check_apart(Path(settings.out), {"the teacher": teacher.path, "the student": student.path, **read_paths(settings)})
    check_pair(student, teacher, settings.sequence_length)
    alone = TeacherStudent(teacher, teacher)  # texts are read as it reads them, whoever learns
    date = chat_date(settings, alone, {})
    if date is not None and settings.chat_date is None:
        raise InputError(
            f"{teacher.path}: its chat template tells the date, and a cache serves runs of any day; "
            f"name it with --chat-date {date}"
        )
    found = mixture(settings, alone, watch)
    wanted = counts(found, settings.sequence_length, settings.tokens)
    about = {
        **named(settings, alone, found),
        "k": min(k, teacher.program.spec.vocabulary),
        "precision": settings.precision,
        **({} if date is None else {"chat_date": date}),
        "counts": wanted,
    }
    with ranks() as one_rank, blamed_teacher(teacher):
        made = write(
            Path(settings.out),
            about,
            PackedRows(found, settings.sequence_length, wanted),
            *(load(one.program, dtype_of(settings), one_rank) for one in models),
            batch=settings.batch_size,
            reporter=watch,
        )
    return CachedTeacher(made.path, made.rows.nbytes, made.about)


def _check(k: int, out: Path) -> None:
    if k < 1:
        raise InputError(f"k: is {k}, it must be at least 1")
    if not out.is_dir() and os.path.lexists(out):
        raise OutputError(f"{out}: is no directory; name another place for the cache")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(
            "cache-teacher: runs as one process; start it without torchrun (healing reads it on any ranks)"
        )
