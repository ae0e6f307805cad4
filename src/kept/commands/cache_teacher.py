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
    """Run the settings' teacher over their data, and keep its `k` likeliest tokens at every place under `settings.out`.

    `tokens` is how many are kept at most, to each source what the mixture gives it. Runs with the same data, length,
    held-out part and temperature read the result, whatever their seed, batch, mixture and number of epochs. The bias
    of the listed KL is measured against the settings' student; where that is the teacher itself, against the teacher
    with its last layer left out. Interrupted, the same call continues. Raises InputError for what does not fit
    together and where `out` is a cache of something else.
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
