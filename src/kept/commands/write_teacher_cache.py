"""Run a teacher over its data and write the cache: the part of `kept cache-teacher` that needs torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.output_path import check_apart
from kept.commands.heal_inputs import (
    blamed_teacher,
    cache_description,
    chat_date,
    compute_dtype,
    data_mixture,
    input_paths,
)
from kept.commands.teacher_student import TeacherStudent, check_pair
from kept.distillation.data.packed_rows import PackedRows, counts
from kept.distillation.teacher_cache import TeacherCache, write
from kept.distillation.train.load_backbone import load_backbone
from kept.distillation.train.process_group import process_group
from kept.errors import InputError
from kept.formatting import amount
from kept.loaded import open_model
from kept.summary import Summarised

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.distillation.data.mixture import Mixture
    from kept.distillation.settings import HealSettings
    from kept.loaded import LoadedModel
    from kept.reporting import Reporter


@dataclass(frozen=True, repr=False)
class CachedTeacher(Summarised):
    """A finished cache: its path, its size, and its description; `about["bias"]` is the error of the top-k KL."""

    path: Path
    nbytes: int
    about: Mapping[str, Any]

    def summary(self) -> dict[str, str]:
        """Return path and size."""
        return {
            "path": str(self.path),
            "size": amount(self.nbytes, "bytes"),
            "tokens per position": str(self.about["k"]),
        }


def write_teacher_cache(settings: HealSettings, k: int, reporter: Reporter) -> CachedTeacher:
    """Run `kept.commands.cache_teacher.cache_teacher` after the checks that need no torch."""
    models = _models(settings)
    teacher = models[0]
    pair = TeacherStudent(teacher, teacher)  # texts are tokenised with the teacher's files, whichever student is healed
    date = _chat_date(settings, pair)
    mixture = data_mixture(settings, pair, reporter)
    about = _description(settings, pair, mixture, k, date)
    rows = PackedRows(mixture, settings.sequence_length, about["counts"])
    with process_group(settings.device) as ranks, blamed_teacher(teacher):
        backbones = [load_backbone(model.program, compute_dtype(settings), ranks) for model in models]
        cache = write(Path(settings.out), about, rows, *backbones, batch=settings.batch_size, reporter=reporter)
    return CachedTeacher(cache.path, cache.rows.nbytes, cache.about)


def _models(settings: HealSettings) -> list[LoadedModel]:
    """Return the teacher, and the student if it is another model."""
    assert settings.teacher is not None, "settings require one"
    models = [open_model(path) for path in dict.fromkeys((settings.teacher, settings.student))]
    teacher, student = models[0], models[-1]
    inputs = {"the teacher": teacher.path, "the student": student.path, **input_paths(settings)}
    check_apart(Path(settings.out), inputs)
    if Path(settings.out).is_dir():
        TeacherCache.open(Path(settings.out))  # raises for anything else, before the data are read
    check_pair(student, teacher, settings.sequence_length)
    return models


def _chat_date(settings: HealSettings, pair: TeacherStudent) -> str | None:
    """Return the date given to the chat template. Raises InputError if the template needs one and none is set."""
    date = chat_date(settings, pair, {})
    if date is not None and settings.chat_date is None:
        raise InputError(
            f"{pair.student.path}: its chat template contains the date, and a cache serves runs of any day; "
            f"set it with --chat-date {date}"
        )
    return date


def _description(
    settings: HealSettings, pair: TeacherStudent, mixture: Mixture, k: int, date: str | None
) -> dict[str, Any]:
    """Return what the cache is made of, for the runs that read it."""
    return {
        **cache_description(settings, pair, mixture),
        "k": min(k, pair.vocabulary),
        "dtype": settings.dtype,
        **({} if date is None else {"chat_date": date}),
        "counts": counts(mixture, settings.sequence_length, settings.tokens),
    }
