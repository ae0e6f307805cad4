"""Train branches of a student alone, each on the input and the output of the teacher's branch in the same place.

One pass of the teacher, layer by layer, feeds all branches. The backward of a branch runs before the teacher's next
layer, so the activations of one branch are in memory at a time. No logits are computed.
Shapes: B rows, T tokens of a row, N = B T, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch

from kept.distillation.train.load_backbone import load_backbone
from kept.distillation.train.nonfinite import first_fault, nonfinite_message
from kept.distillation.train.student_branch import load_branch
from kept.distillation.train.task import ParameterGroup, UpdateRule
from kept.ir.spec import Head
from kept.nn.mixers import tables_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torch import Tensor

    from kept.distillation.data.packing import Batch, BatchStream
    from kept.distillation.loss.chunked_loss import Losses
    from kept.distillation.settings import HealSettings
    from kept.distillation.train.backbone import Backbone
    from kept.distillation.train.calibration import InputSums
    from kept.distillation.train.process_group import Ranks
    from kept.distillation.train.student_branch import BranchPair, StudentBranch
    from kept.ir.program import Program
    from kept.ir.stream_map import StreamMap
    from kept.nn.decoder import Block, BranchRun
    from kept.nn.sequence import SequenceContext, TableKeys
    from kept.reporting import Reporter


@dataclass(frozen=True)
class LayerwisePlan:
    """Pairs of student and teacher branches to train, the map of the teacher's residual stream, and the new slots."""

    pairs: Sequence[BranchPair]
    stream_map: StreamMap
    new: Collection[str] = ()


@dataclass(eq=False)
class Layerwise:
    """The branches that this rank trains, and the teacher up to the last of them. Ranks take branches in order."""

    settings: HealSettings
    ranks: Ranks
    plan: LayerwisePlan
    teacher: Backbone
    tables: TableKeys
    students: Sequence[StudentBranch]
    _changes: dict[str, tuple[InputSums, Mapping[str, Tensor]]] = field(default_factory=dict)

    splits_batches: ClassVar[bool] = False
    """Each rank computes all rows for its own branches."""

    @cached_property
    def groups(self) -> Sequence[ParameterGroup]:
        """One group for each branch, of this rank or another."""
        own = {student.pair.group: student for student in self.students}
        return [self._group(pair.group, own.get(pair.group)) for pair in self.plan.pairs]

    def calibrate(self, stream: BatchStream, reporter: Reporter) -> None:
        """Sum the inputs of the matrices over the first training batches, and whiten the matrices."""
        settings = self.settings
        if not (settings.whiten or settings.refit) or not self.students:
            return
        rows = settings.batch_size * settings.sequence_length
        count = -(-settings.calibration_tokens // rows)
        sums = {student.pair.group: student.new_sums() for student in self.students}
        with reporter.stage("calibrating", count, "batches") as advance:
            for number in range(count):
                self._add(stream.batch_at(number).to(self.ranks.device), sums)
                advance(1)
        for student in self.students:
            found = sums[student.pair.group]
            factors = found.factors()
            self._changes[student.pair.group] = found, factors
            if settings.whiten:
                student.whiten(factors)

    def refit(self) -> Collection[str]:
        """Move the output projection of each branch to the least-squares solution on the calibration tokens."""
        changes, self._changes = self._changes, {}
        if not self.settings.refit:
            return ()
        own = [student for student in self.students if student.pair.group in changes]
        return [student.pair.group for student in own if student.refit(*changes[student.pair.group])]

    def losses(self, batch: Batch, active: Collection[str]) -> Iterator[tuple[str, Losses]]:
        """Yield the errors of each branch in `active` that this rank trains, in the order of the teacher's layers."""
        students = [student for student in self.students if student.pair.group in active]
        mask_N = batch.mask_BT.flatten()
        for student, run, context in self._runs(batch, students):
            with self._autocast():
                found = student.losses(run, context, mask_N)
            yield student.pair.group, found

    def text_losses(self, batch: Batch, active: Collection[str]) -> Iterator[tuple[str, Losses]]:  # noqa: ARG002 - the protocol's
        """Yield nothing: no branch has logits."""
        yield from ()

    def set_gradient_sync(self, *, enabled: bool) -> None:
        """Do nothing: no gradient is reduced over ranks."""

    @torch.no_grad()
    def nonfinite_cause(self, batch: Batch, *, trained: bool) -> str | None:
        """Check the teacher's hidden states, and what the branches add unless they were `trained`."""
        teacher = self._teacher_faults(batch)
        depth = self.ranks.gather(len(teacher))
        flags = self.ranks.gather(teacher + [False] * (max(depth) - len(teacher)))
        fault = first_fault([*map(any, zip(*flags, strict=True)), False])
        if fault is not None:
            return nonfinite_message(f"the teacher {self.settings.teacher}", self.settings.dtype, fault)
        own = [] if trained else [name for name, found in self.losses(batch, self._names) if not found.total.isfinite()]
        first = next((name for names in self.ranks.gather(own) for name in names), None)
        if first is None:
            return None
        return nonfinite_message(f"the student {self.settings.student}", self.settings.dtype, first)

    @property
    def _names(self) -> Collection[str]:
        return [student.pair.group for student in self.students]

    def _group(self, name: str, student: StudentBranch | None) -> ParameterGroup:
        """Return the group of a branch; without parameters if another rank trains it."""
        if student is None:
            return ParameterGroup(name, {}, self.settings.max_grad_norm)
        rules = {slot: self._rule(slot) for slot in student.trainable}
        return ParameterGroup(name, student.trainable, self.settings.max_grad_norm, rules, student.merged)

    def _rule(self, slot: str) -> UpdateRule:
        factor = self.settings.new_lr_factor if slot in self.plan.new else 1.0
        return UpdateRule(factor, self.settings.weight_decay)

    @torch.no_grad()
    def _add(self, batch: Batch, sums: Mapping[str, InputSums]) -> None:
        mask_N = batch.mask_BT.flatten()
        for student, run, context in self._runs(batch, self.students):
            with self._autocast():
                student.calibrate(sums[student.pair.group], run, context, mask_N)

    def _runs(
        self, batch: Batch, students: Sequence[StudentBranch]
    ) -> Iterator[tuple[StudentBranch, BranchRun, SequenceContext]]:
        """Run the teacher, and yield each branch with the teacher's run of it and the context of its layer."""
        if not students:
            return
        model = self.teacher.model
        with torch.no_grad(), self._autocast():
            x_BTD, context = model.enter(batch.tokens_BT, documents_BT=batch.packed_BT)
            own = context.with_tables(self.tables, x_BTD.dtype)
        for layer in range(1 + max(student.pair.teacher_layer for student in students)):
            with torch.no_grad(), self._autocast():
                runs = [*self._block(layer).runs(x_BTD, context)]
            for run in runs:
                x_BTD = run.after_BTD
                for student in students:
                    if (student.pair.teacher_layer, student.pair.name) == (layer, run.branch.name):
                        yield student, run, own

    def _teacher_faults(self, batch: Batch) -> list[bool]:
        """Return whether the teacher's hidden states have NaN or Inf, before the first layer and after each."""
        with self._autocast():
            output = self.teacher.output(batch, keep_hidden=True)
        counted_N = batch.mask_BT.flatten() != 0
        return [not bool(x.flatten(0, 1)[counted_N].isfinite().all()) for x in output.hidden_states]

    def _block(self, layer: int) -> Block:
        block: Block = self.teacher.model.layers[layer]  # type: ignore[assignment] # torch's stubs
        return block

    def _autocast(self) -> torch.autocast:
        """Return a context in which matrix products have the settings' dtype."""
        enabled = self.settings.dtype == "bfloat16"
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=enabled)


def load_layerwise(
    settings: HealSettings, ranks: Ranks, plan: LayerwisePlan, student: Program, teacher: Program
) -> Layerwise:
    """Load this rank's branches, and the teacher up to the last of them."""
    dtype: torch.dtype = getattr(torch, settings.dtype)
    share = ranks.row_range(len(plan.pairs))
    own = plan.pairs[share.start : share.stop]
    depth = 1 + max((pair.teacher_layer for pair in own), default=-1)
    alone = replace(ranks, rank=0, world_size=1)
    return Layerwise(
        settings,
        ranks,
        plan,
        load_backbone(_first_layers(teacher, depth), dtype, alone),
        tables_of(student.spec),
        [load_branch(student, pair, plan.stream_map, dtype, ranks.device) for pair in own],
    )


def _first_layers(program: Program, depth: int) -> Program:
    """Return a program of the first layers, whose head has no weights of its own."""
    spec = replace(program.spec, layers=program.spec.layers[:depth], head=Head(tied=True))
    return program.updated(spec, {})
