"""A student and its teacher, and whether they fit together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kept.errors import InputError
from kept.loaded import LoadedModel, open_model

if TYPE_CHECKING:
    from kept.distillation.settings import HealSettings
    from kept.distillation.teacher_cache import TeacherCache


@dataclass(frozen=True)
class TeacherStudent:
    """A student, and a teacher that runs, a cache of one, or neither: then the student learns from text alone."""

    student: LoadedModel
    teacher: LoadedModel | None
    cache: TeacherCache | None = None

    @classmethod
    def open(cls, settings: HealSettings) -> TeacherStudent:
        """Open the models that the settings name. Raises InputError if they do not fit together."""
        student = open_model(settings.student)
        teacher = None if settings.teacher is None else open_model(settings.teacher)
        cache = None if settings.teacher_cache is None else _open_cache(Path(settings.teacher_cache))
        check_pair(student, teacher, settings.sequence_length)
        return cls(student, teacher, cache)

    @property
    def vocabulary(self) -> int:
        """The number of ids that student, teacher and cache all have: rows of padding may follow in one of them."""
        sizes = [model.program.spec.vocabulary for model in (self.student, self.teacher) if model is not None]
        return min(sizes if self.cache is None else [*sizes, self.cache.about["vocabulary"]])


def _open_cache(path: Path) -> TeacherCache:
    from kept.distillation.teacher_cache import TeacherCache  # noqa: PLC0415 - imports torch, which a plan does not need

    return TeacherCache.open(path)


def check_pair(student: LoadedModel, teacher: LoadedModel | None, length: int) -> None:
    """Raise InputError if sequences of `length` tokens are too long for a model, or the tokenizers differ."""
    from kept.checkpoint.tokenizer_reader import TokenizerReader  # noqa: PLC0415 - imports torch
    from kept.verification.text import difference  # noqa: PLC0415 - imports torch

    check_sizes(student, teacher, length)
    if teacher is None:
        return
    found = difference(TokenizerReader(student.path), TokenizerReader(teacher.path))
    if found is not None:
        raise InputError(
            f"{student.path}: has another tokenizer than its teacher {teacher.path}: {found}; "
            "name the model that it was converted from"
        )


def check_sizes(student: LoadedModel, teacher: LoadedModel | None, length: int) -> None:
    """Raise InputError if `length` exceeds a model's context, or the vocabularies differ by more than padding.

    Needs configs only, and the tokenizers if the sizes differ.
    """
    for model in filter(None, (student, teacher)):
        context = model.program.spec.context
        if length > context:
            raise InputError(
                f"sequence_length: is {length}, {model.path} has {context} positions; make sequences shorter"
            )
    if teacher is None:
        return
    sizes = student.program.spec.vocabulary, teacher.program.spec.vocabulary
    if sizes[0] != sizes[1] and not _only_padding(student, teacher):
        raise InputError(
            f"{student.path}: has {sizes[0]} tokens, its teacher {teacher.path} has {sizes[1]}; name a teacher with "
            "the same vocabulary: the model that the student was converted from, or the student before it was healed"
        )


def _only_padding(student: LoadedModel, teacher: LoadedModel) -> bool:
    """Whether two models have the same tokens, and one has more rows than tokens need.

    False for a model that is foreseen, whose tokenizer is not there yet.
    """
    from kept.checkpoint.tokenizer_reader import TokenizerReader  # noqa: PLC0415 - imports torch

    models = (student, teacher)
    if any(model.config.get("vocab_size") != model.program.spec.vocabulary for model in models):
        return False
    readers = [TokenizerReader(model.path) for model in models]
    if any(reader.file is None for reader in readers):
        return False
    ours, theirs = (reader.tokenizer.vocabulary for reader in readers)
    fewest = min(model.program.spec.vocabulary for model in models)
    return ours == theirs and max(ours.values(), default=-1) < fewest


def check_widths(student: LoadedModel, teacher: LoadedModel, setting: str = "hidden") -> None:
    """Raise InputError, which names a setting, if the residual streams of student and teacher differ in width."""
    widths = student.program.spec.width, teacher.program.spec.width
    if widths[0] != widths[1]:
        raise InputError(
            f"{setting}: the residual stream of {student.path} is {widths[0]} wide, that of its teacher {teacher.path} "
            f"{widths[1]}; leave out --{setting}"
        )
