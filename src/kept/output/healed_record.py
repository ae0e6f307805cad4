"""The part of a record about healing: settings, trained parameters, data and held-out measurements."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from pydantic import Field, field_validator

from kept.checkpoint.json_model import JsonModel, Number


class TrainedParameters(JsonModel):
    """Number of trained parameters, and of all parameters."""

    parameters: int
    of: int


class DataSourceRecord(JsonModel):
    """Size of one text source in tokens; `answer_tokens` is set for conversations."""

    tokens: int
    held_out_tokens: int
    answer_tokens: int | None = None


class HealSettingsRecord(JsonModel):
    """The settings of a healing that are shown."""

    teacher: str | None = None
    teacher_cache: str | None = None
    data: tuple[str, ...]
    train: str
    dtype: str
    batch_size: int
    gradient_accumulation: int
    sequence_length: int
    learning_rate: float
    lr_schedule: str
    layerwise: bool = False


class MeasurementRecord(JsonModel):
    """A held-out measurement: each loss that was computed, and the share of equal first choices.

    `loss` is what was minimised. `sources` and `eval_data` have losses by text.
    """

    step: int = 0
    tokens: int
    agreement: Number = math.nan
    losses: Mapping[str, Number]
    sources: Mapping[str, Mapping[str, Number]] = {}
    eval_data: Mapping[str, Mapping[str, Number]] = {}

    @field_validator("losses")
    @classmethod
    def _has_objective(cls, losses: Mapping[str, float]) -> Mapping[str, float]:
        if "loss" not in losses:
            raise ValueError("has no loss")
        return losses

    @property
    def loss(self) -> float:
        """The loss that was minimised."""
        return self.losses["loss"]


class GroupRecord(JsonModel):
    """The measurements of parameters that were trained with one loss; `stopped`: why, if the loss diverged."""

    held_out: tuple[MeasurementRecord, ...] = Field(min_length=1)
    stopped: str | None = None

    @property
    def first(self) -> MeasurementRecord:
        """The measurement before training."""
        return self.held_out[0]

    @property
    def best(self) -> MeasurementRecord:
        """The first measurement with the least held-out loss, whose weights were written."""
        return min(self.held_out, key=lambda one: math.inf if math.isnan(one.loss) else one.loss)


class StudentRecord(JsonModel):
    """The student before healing: its name, and the sha256 of its files by name."""

    name: str = ""
    files: Mapping[str, str] = {}


class ContinuationRecord(JsonModel):
    """A prompt and the greedy continuations of both models."""

    prompt: str
    source: str
    output: str


class TeacherKlRecord(JsonModel):
    """The KL divergence from the teacher of the whole student before and after, in nats per token of held-out text."""

    before: Number
    after: Number
    tokens: int


class HealedRecord(JsonModel):
    """Record of a healing: settings, trained parameters, data, sha256 of what was read, and measurements by group.

    `kl` is measured where branches were trained alone, without logits. `continuations` are those of the student before
    (`source`) and after (`output`), in float32.
    """

    settings: HealSettingsRecord
    trained: TrainedParameters
    sources: Mapping[str, DataSourceRecord]
    read: Mapping[str, str] = {}
    groups: Mapping[str, GroupRecord] = Field(min_length=1)
    kl: TeacherKlRecord | None = None
    student: StudentRecord | None = None
    teacher_cache: Mapping[str, Any] | None = None
    continuations: tuple[ContinuationRecord, ...] = ()

    @property
    def only_group(self) -> GroupRecord | None:
        """The group of a run that trained a whole student; None if there are several groups."""
        return next(iter(self.groups.values())) if len(self.groups) == 1 else None

    @property
    def trained_tokens(self) -> int:
        """The tokens that were trained on until the best measurement: of the last group to reach its own."""
        return max(one.best.tokens for one in self.groups.values())

    @property
    def has_teacher(self) -> bool:
        """Whether the student was trained with a teacher or a cache of one, and not from texts alone."""
        return bool(self.settings.teacher or self.settings.teacher_cache)
