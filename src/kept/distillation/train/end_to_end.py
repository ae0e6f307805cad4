"""Train a whole student to match its teacher: losses on logits, and on hidden states if they are asked for.

Shapes: B rows, T tokens of a row, N = B T, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import torch

from kept.distillation.loss.chunked_loss import Losses, chunked_loss
from kept.distillation.loss.hidden_states import HIDDEN_ERRORS, masked_mean
from kept.distillation.loss.objective import Objective
from kept.distillation.train.backbone import Backbone
from kept.distillation.train.nonfinite import first_fault, nonfinite_message, nonfinite_parts
from kept.distillation.train.task import ParameterGroup, UpdateRule
from kept.ir.stream_map import IDENTITY
from kept.nn.norm import normalise
from kept.verification.parity import reading

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from torch import Tensor

    from kept.distillation.data.packing import Batch
    from kept.distillation.loss.output_head import HeadInput
    from kept.distillation.loss.top_k import TopK
    from kept.distillation.settings import HealSettings
    from kept.distillation.teacher_cache import TeacherCache
    from kept.distillation.train.backbone import BackboneOutput
    from kept.distillation.train.process_group import Ranks
    from kept.ir.stream_map import StreamMap

STUDENT = "student"
"""The name of the only parameter group."""

TEXT_ONLY = Objective(kl=0.0, ce=1.0)
"""Cross-entropy, which needs no teacher."""


@dataclass(frozen=True, eq=False)
class TeacherOutput:
    """A teacher's distribution over next tokens (None: there is no teacher), and its hidden states (B, T, D)."""

    distribution: HeadInput | TopK | None
    hidden_states: Sequence[Tensor] = ()


@dataclass(frozen=True, eq=False)
class EndToEnd:
    """A student, and a teacher that runs, a teacher cache, or no teacher.

    `trained_rows` are the parameters of which only some rows are trained. `layer_pairs` are indices into the teacher's
    and the student's hidden states that the hidden-state loss compares, `stream_map` maps the former to the latter
    (`kept.output.layer_pairing`). `new` are the parameters with the learning rate of new weights.
    """

    settings: HealSettings
    ranks: Ranks
    student: Backbone
    teacher: Backbone | TeacherCache | None
    trained_rows: Mapping[str, range] = field(default_factory=dict)
    layer_pairs: Sequence[tuple[int, int]] = ()
    stream_map: StreamMap = IDENTITY
    new: Collection[str] = ()

    splits_batches: ClassVar[bool] = True
    """FSDP2 averages the gradients of all ranks."""

    @cached_property
    def groups(self) -> Sequence[ParameterGroup]:
        """One group: all trainable parameters of the student. Parameters with frozen rows have no weight decay."""
        parameters = self.student.trainable_parameters()
        rules = {name: self._rule(name) for name in parameters}
        return (ParameterGroup(STUDENT, parameters, self.settings.max_grad_norm, rules),)

    def _rule(self, name: str) -> UpdateRule:
        factor = self.settings.new_lr_factor if name in self.new else 1.0
        rows = self.trained_rows.get(name)
        return UpdateRule(factor, self.settings.weight_decay if rows is None else 0.0, rows)

    def losses(self, batch: Batch, active: Collection[str]) -> Iterator[tuple[str, Losses]]:
        """Yield the objective of the settings on a batch."""
        assert set(active) == {STUDENT}, "there is no other group"
        with self._autocast():
            loss = partial(self._student_losses, batch, self._teacher_output(batch))
            found = self.student(batch, loss, keep_hidden=bool(self.settings.hidden))
        yield STUDENT, found

    def refit(self) -> Collection[str]:
        """Move nothing: the losses have no optimum in closed form."""
        return ()

    def text_losses(self, batch: Batch, active: Collection[str]) -> Iterator[tuple[str, Losses]]:
        """Yield the cross-entropy. A teacher cache does not cover evaluation data."""
        assert set(active) == {STUDENT}, "there is no other group"
        with self._autocast():
            found = self.student(batch, lambda output: _logit_losses(output, None, batch, TEXT_ONLY))
        yield STUDENT, found

    def set_gradient_sync(self, *, enabled: bool) -> None:
        """Set whether the next backward reduces the student's gradients over ranks."""
        if self.ranks.world_size > 1:
            self.student.set_requires_gradient_sync(enabled)  # type: ignore[operator] # a method of FSDP2

    @torch.no_grad()
    def nonfinite_cause(self, batch: Batch, *, trained: bool) -> str | None:
        """Check the logits of the teacher, and those of the student unless it was `trained`."""
        models = [] if trained else [(f"the student {self.settings.student}", self.student)]
        if isinstance(self.teacher, Backbone):
            models.insert(0, (f"the teacher {self.settings.teacher}", self.teacher))
        for name, model in models:
            with self._autocast():
                fault = first_fault(self.ranks.sum(*nonfinite_parts(model, batch)))
            if fault is not None:
                return nonfinite_message(name, self.settings.dtype, fault)
        return None

    def _teacher_output(self, batch: Batch) -> TeacherOutput:
        if self.teacher is None:
            return TeacherOutput(None)
        if not isinstance(self.teacher, Backbone):
            return TeacherOutput(self.teacher.top_k(batch))
        output = self.teacher.output(batch, keep_hidden=bool(self.settings.hidden))
        return TeacherOutput(output.head, output.hidden_states)

    def _student_losses(self, batch: Batch, teacher: TeacherOutput, student: BackboneOutput) -> Losses:
        losses = _logit_losses(student, teacher.distribution, batch, self.settings.objective)
        weight = self.settings.hidden
        if not weight:
            return losses
        error = self._hidden_error(teacher.hidden_states, student.hidden_states, batch.mask_BT.flatten())
        means = {**losses.means, "hidden": error.detach()}
        return replace(losses, total=losses.total + weight * error, means=means)

    def _hidden_error(self, teacher: Sequence[Tensor], student: Sequence[Tensor], mask_N: Tensor) -> Tensor:
        """Return the mean error of the student's hidden states, each normalised by the norm that reads it.

        The stream map is undone first, so that what a conversion added to the residual stream is no error.
        """
        assert self.layer_pairs, "the hidden-state loss needs pairs of layers"
        assert isinstance(self.teacher, Backbone), "the hidden-state loss needs a running teacher"
        error = HIDDEN_ERRORS[self.settings.hidden_error]
        errors = []
        for theirs, ours in self.layer_pairs:
            wanted = _as_read(self.teacher, teacher[theirs], theirs)
            found = _as_read(self.student, self.stream_map.undone(student[ours]), ours)
            errors.append(masked_mean(error(wanted, found), mask_N))
        return torch.stack(errors).mean()

    def _autocast(self) -> torch.autocast:
        """Return a context in which matrix products have the settings' dtype."""
        enabled = self.settings.dtype == "bfloat16"
        return torch.autocast(self.ranks.device.type, torch.bfloat16, enabled=enabled)


def _logit_losses(
    student: BackboneOutput, teacher: HeadInput | TopK | None, batch: Batch, objective: Objective
) -> Losses:
    return chunked_loss(student.head, teacher, batch.targets_BT.flatten(), batch.mask_BT.flatten(), objective)


def _as_read(backbone: Backbone, hidden_BTD: Tensor, place: int) -> Tensor:
    """Return the residual stream before layer `place`, (N, D), normalised as the norm that reads it does."""
    return normalise(hidden_BTD.flatten(0, 1), reading(backbone.model.spec, place))
