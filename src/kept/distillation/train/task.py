"""The task of a trainer: the losses of a batch, and the groups of parameters that are trained on them.

A task with one group trains one model (`end_to_end.EndToEnd`). A task with many groups trains many candidates from one
pass of the teacher: `Backbone.output(batch, keep_hidden=True)` gives the input and the output of each layer, each
candidate computes its own loss from them, and each has its own gradient clipping, best weights and end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch.nn.utils import clip_grad_norm_

from kept.distillation.train.shards import full_tensor, zero_other_rows

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from torch import Tensor, nn

    from kept.distillation.data.packing import Batch
    from kept.distillation.loss.chunked_loss import Losses


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters by name, trained with one loss: clipped together, and kept as of the best measurement of that loss.

    `trained_rows` are the parameters of which only some rows are trained, and these rows.
    """

    name: str
    parameters: Mapping[str, nn.Parameter]
    max_grad_norm: float
    trained_rows: Mapping[str, range] = field(default_factory=dict)

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Return AdamW's parameter groups. Weight decay would change frozen rows, so their parameters have none."""
        partial = [parameter for name, parameter in self.parameters.items() if name in self.trained_rows]
        entire = [parameter for name, parameter in self.parameters.items() if name not in self.trained_rows]
        groups: list[dict[str, Any]] = [{"params": entire}, {"params": partial, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]

    def clip_gradients(self) -> float:
        """Zero the gradients of frozen rows, then clip to `max_grad_norm`. Returns the norm before clipping."""
        for name, rows in self.trained_rows.items():
            gradient = self.parameters[name].grad
            if gradient is not None:
                zero_other_rows(gradient, rows)
        return float(full_tensor(clip_grad_norm_(list(self.parameters.values()), self.max_grad_norm)))

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the parameters, unsharded, in CPU memory."""
        return {name: full_tensor(parameter).clone() for name, parameter in self.parameters.items()}


class TrainingTask(Protocol):
    """The losses and parameter groups of a `Trainer`.

    Batches have the rows of this rank. Rows that do not count have a mask of 0.
    """

    @property
    def groups(self) -> Sequence[ParameterGroup]:
        """The parameter groups, the same at each call. Names of parameters are unique over all groups."""

    def losses(self, batch: Batch, active: Collection[str]) -> Mapping[str, Losses]:
        """Return the losses of a batch for each group in `active`, with gradients if grad mode is on."""

    def text_losses(self, batch: Batch, active: Collection[str]) -> Mapping[str, Losses]:
        """Return the losses without a teacher on evaluation data."""

    def set_gradient_sync(self, *, enabled: bool) -> None:
        """Set whether the next backward reduces gradients over ranks: only the last of several that accumulate does."""

    def nonfinite_cause(self, batch: Batch, *, trained: bool) -> str | None:
        """Return which model has NaN or Inf on a batch, and where, if training is not the cause; None otherwise.

        `trained`: whether the weights were updated before. All ranks call this together.
        """
