"""The part of a record about healing: settings, trained parameters, data and held-out measurements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

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
    precision: str
    batch_size: int
    gradient_accumulation: int
    sequence_length: int
    learning_rate: float
    lr_schedule: str


class MeasurementRecord(JsonModel):
    """A held-out measurement: nats per token of each loss that was computed, and the share of equal first choices.

    `sources` and `eval_data` have losses by text. A loss that was not computed is not among the fields that are set.
    """

    step: int = 0
    tokens: int
    agreement: Number
    loss: Number
    kl: Number = 0.0
    reverse_kl: Number = 0.0
    jsd: Number = 0.0
    ce: Number = 0.0
    hidden: Number = 0.0
    sources: Mapping[str, Mapping[str, Number]] = {}
    eval_data: Mapping[str, Mapping[str, Number]] = {}

    @property
    def computed_losses(self) -> dict[str, float]:
        """The losses that were computed, by name."""
        names = ("kl", "reverse_kl", "jsd", "ce", "hidden", "loss")
        return {name: getattr(self, name) for name in names if name in self.model_fields_set}


class StudentRecord(JsonModel):
    """The student before healing: its name, and the sha256 of its files by name."""

    name: str = ""
    files: Mapping[str, str] = {}


class HealedRecord(JsonModel):
    """Record of a healing: settings, trained parameters, data, sha256 of what was read, and held-out measurements."""

    settings: HealSettingsRecord
    trained: TrainedParameters
    sources: Mapping[str, DataSourceRecord]
    read: Mapping[str, str] = {}
    held_out: tuple[MeasurementRecord, ...] = Field(min_length=1)
    student: StudentRecord | None = None
    teacher_cache: Mapping[str, Any] | None = None

    @property
    def has_teacher(self) -> bool:
        """Whether the student was trained with a teacher or a cache of one, and not from texts alone."""
        return bool(self.settings.teacher or self.settings.teacher_cache)
