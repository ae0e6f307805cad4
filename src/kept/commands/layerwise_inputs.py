"""The branches of a student that a layerwise run trains, and the teacher's branches that they learn from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from kept.commands.teacher_student import check_widths
from kept.distillation.settings_fields import CHANGED
from kept.distillation.train.choose_trainable import new_slots, trainable
from kept.distillation.train.layerwise import LayerwisePlan
from kept.distillation.train.student_branch import BranchPair
from kept.distillation.train.trainable import Trainable
from kept.errors import InputError
from kept.ir.tensors import torch_dtype
from kept.output.layer_pairing import layer_origins, stream_map
from kept.verification.equal_parts import equal_when_read

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kept.commands.teacher_student import TeacherStudent
    from kept.distillation.settings import HealSettings
    from kept.ir.program import Program
    from kept.ir.spec.layer import Branch


@dataclass(frozen=True)
class PlacedBranch:
    """A branch of the student, its layer, and the branch of the teacher's layer of which its layer was made."""

    layer: int
    teacher_layer: int
    branch: Branch
    teacher: Branch

    def slots(self, width: int) -> list[str]:
        """Return the branch's own slots."""
        return [f"layers.{self.layer}.{name}" for name, _ in self.branch.slots(width)]


def layerwise_inputs(
    settings: HealSettings, pair: TeacherStudent, record: Mapping[str, Any] | None
) -> tuple[LayerwisePlan, Trainable]:
    """Return what a layerwise run trains. Reads the weights of branches whose spec is the teacher's.

    Raises InputError if layers cannot be paired, or if nothing that is to be trained has a counterpart.
    """
    assert pair.teacher is not None, "settings require one"
    student, teacher = pair.student.program, pair.teacher.program
    check_widths(pair.student, pair.teacher, "layerwise")
    places = [*_places(pair)]
    changed = [place for place in places if CHANGED in settings.train and _differs(place, student, teacher)]
    width = student.spec.width
    names = {f"layers.{one.layer}.{one.branch.name}." for one in changed}
    operations = {slot for one in changed for slot in one.slots(width) if slot.startswith(tuple(names))}
    if CHANGED in settings.train and not operations:
        raise InputError(
            f"layerwise: no branch of {pair.student.path} differs from that of its teacher {pair.teacher.path}; "
            "name what to train (--train)"
        )
    chosen = {*trainable(student, settings.train, record, changed=operations).slots}
    pairs = []
    for place in places:
        slots = tuple(slot for slot in place.slots(width) if slot in chosen)
        if slots:
            pairs.append(BranchPair(place.layer, place.teacher_layer, place.branch.name, slots))
    if not pairs:
        raise InputError(
            f"train: {settings.train!r} names no weight of a branch that the teacher {pair.teacher.path} has too; "
            "with --layerwise, name weights of such branches"
        )
    reached = tuple(slot for one in pairs for slot in one.slots)
    count = sum(_elements(student.weights[slot].shape) for slot in reached)
    new = () if settings.new_learning_rate is None else new_slots(student, record or {})
    plan = LayerwisePlan(tuple(pairs), stream_map(pair.student, pair.teacher), frozenset(new))
    return plan, Trainable(reached, count, student.parameters)


def _places(pair: TeacherStudent) -> Iterator[PlacedBranch]:
    """Yield the branches that student and teacher both have. Raises InputError if layers cannot be paired."""
    assert pair.teacher is not None, "settings require one"
    ours, theirs = pair.student.program.spec, pair.teacher.program.spec
    origins = layer_origins(pair.student, pair.teacher)
    if origins is None:
        raise InputError(
            f"layerwise: {pair.student.path} has {ours.depth} layers, its teacher {pair.teacher.path} has "
            f"{theirs.depth}, and no record tells which are which; name the model that the student was made from"
        )
    for layer, origin in enumerate(origins):
        if isinstance(origin, int):
            theirs_by_name = {branch.name: branch for branch in theirs.layers[origin].branches}
            for branch in ours.layers[layer].branches:
                if branch.name in theirs_by_name:
                    yield PlacedBranch(layer, origin, branch, theirs_by_name[branch.name])


def _differs(place: PlacedBranch, student: Program, teacher: Program) -> bool:
    """Return whether a branch differs from the teacher's in its spec or in a weight."""
    if place.branch != place.teacher:
        return True
    ours, theirs = f"layers.{place.layer}.", f"layers.{place.teacher_layer}."
    dtype = torch_dtype(student.dtype)
    for name, _ in place.branch.slots(student.spec.width):
        if not equal_when_read(student.weights[ours + name], teacher.weights[theirs + name], dtype):
            return True
    return False


def _elements(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()
