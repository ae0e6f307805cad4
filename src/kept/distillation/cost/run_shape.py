"""The parts of a healing run that its cost depends on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kept.distillation.settings import HealSettings
    from kept.distillation.train.trainable import Trainable
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class RunShape:
    """Specs of student and teacher, trainable parameters and settings. `teacher` is None if no teacher is run."""

    student: Spec
    teacher: Spec | None
    trainable: Trainable
    settings: HealSettings

    @property
    def value_bytes(self) -> int:
        """Bytes of a value in the precision of the computation."""
        return 2 if self.settings.dtype == "bfloat16" else 4

    @property
    def specs(self) -> tuple[Spec, ...]:
        """The specs of the models in memory: the student's, and the teacher's if it is run."""
        return (self.student,) if self.teacher is None else (self.student, self.teacher)

    def rows(self, ranks: int) -> int:
        """Return the largest number of rows of a batch that one of the ranks computes."""
        return math.ceil(self.settings.batch_size / ranks)

    def tokens(self, ranks: int) -> int:
        """Return the number of tokens of a batch on that rank."""
        return self.rows(ranks) * self.settings.sequence_length
