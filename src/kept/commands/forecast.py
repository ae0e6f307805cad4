"""What healing would take on given machines, from two config files: no weight is needed, nor torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kept.checkpoint.json_file import read_json
from kept.checkpoint.reader import Checkpoint
from kept.commands.teacher_student import check_sizes
from kept.distillation.cost import CostEstimate, RunShape, cost, ways_out
from kept.distillation.train.choose_trainable import trainable
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
    """What a run takes on a cluster, and what would take less: each by the options that say it."""

    cluster: Cluster
    learned: Trainable
    cost: CostEstimate
    ways_out: tuple[tuple[str, CostEstimate], ...]


def forecast(settings: HealSettings, cluster: Cluster) -> Forecast:
    """Predict a run from the settings and what the config files say.

    Raises InputError where the two models do not belong together or the teacher's cache is none, and CheckpointError
    for a config that is missing or that no family reads.
    """
    if settings.teacher_cache is not None:
        from kept.distillation.teacher_cache import TeacherCache  # noqa: PLC0415 - imports torch, which other plans do not need

        TeacherCache.open(Path(settings.teacher_cache))  # says what is wrong with it
    student = _described(settings.student)
    teacher = None if settings.teacher is None else _described(settings.teacher)
    check_sizes(student, teacher, settings.sequence_length)
    made = record_table(student.path)
    learned = trainable(student.program, settings.train, made, settings.lora_rank, settings.lora_alpha)
    theirs = None if teacher is None or settings.teacher_cache is not None else teacher.program.spec
    asked = RunShape(student.program.spec, theirs, learned, settings)
    return Forecast(cluster, learned, cost(asked, cluster), tuple(ways_out(asked, cluster)))


def _described(model: str) -> LoadedModel:
    """Return a checkpoint as its config describes it, with weights of the right shapes and no values."""
    with opening(model):
        path = small_files(model)
        config = read_json(path / "config.json")
        family = family_of(config)
        spec = family.read_config(config)
    program = Program(spec, {name: zeros(slot.shape, "BF16") for name, slot in slots(spec).items()})
    return LoadedModel(Checkpoint(path, config, {}, ()), family, program)
