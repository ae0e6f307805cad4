"""Predict the cost of healing on given machines from two config files, without weights and without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kept.checkpoint.json_file import read_json
from kept.checkpoint.reader import Checkpoint
from kept.commands.teacher_student import check_sizes
from kept.distillation.cost.estimate import CostEstimate, cost
from kept.distillation.cost.remedies import remedies
from kept.distillation.cost.run_shape import RunShape
from kept.distillation.train.choose_trainable import trainable
from kept.errors import InputError
from kept.families import family_of
from kept.ir.program import Program
from kept.ir.slots import slots
from kept.ir.tensors import zeros
from kept.loaded import LoadedModel, opening, small_files
from kept.output.record import record_table

if TYPE_CHECKING:
    from kept.distillation.cluster import Cluster
    from kept.distillation.settings import HealSettings
    from kept.distillation.train.trainable import Trainable


@dataclass(frozen=True)
class Forecast:
    """The cost of a run on a cluster, and changes that lower its memory: command-line options, with the cost after."""

    cluster: Cluster
    trainable: Trainable
    cost: CostEstimate
    remedies: tuple[tuple[str, CostEstimate], ...]


def forecast(settings: HealSettings, cluster: Cluster) -> Forecast:
    """Predict the cost of a run from its settings and the models' config files.

    Raises InputError if the two models do not fit together or the teacher cache is invalid, and CheckpointError for a
    config that is missing or of an unknown family.
    """
    if settings.layerwise:
        raise InputError("layerwise: the cost of such runs is not predicted; leave it out for that of a whole student")
    if settings.teacher_cache is not None:
        from kept.distillation.teacher_cache import TeacherCache  # noqa: PLC0415 - imports torch, which other plans do not need

        TeacherCache.open(Path(settings.teacher_cache))  # raises InputError if it is invalid
    student = _described(settings.student)
    teacher = None if settings.teacher is None else _described(settings.teacher)
    check_sizes(student, teacher, settings.sequence_length)
    record = record_table(student.path)
    trained = trainable(student.program, settings.train, record, settings.lora_rank, settings.lora_alpha)
    running = None if teacher is None or settings.teacher_cache is not None else teacher.program.spec
    shape = RunShape(student.program.spec, running, trained, settings)
    return Forecast(cluster, trained, cost(shape, cluster), tuple(remedies(shape, cluster)))


def _described(model: str) -> LoadedModel:
    """Return the model that a checkpoint's config describes. Its weights have shapes and no values."""
    with opening(model):
        path = small_files(model)
        config = read_json(path / "config.json")
        family = family_of(config)
        spec = family.read_config(config)
    program = Program(spec, {name: zeros(slot.shape, "BF16") for name, slot in slots(spec).items()})
    return LoadedModel(Checkpoint(path, config, {}, ()), family, program)
