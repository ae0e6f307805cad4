"""The task of a trainer: the losses of a batch, and the groups of parameters that are trained on them.

A task with one group trains one model (`end_to_end.EndToEnd`). A task with many groups trains many branches from one
pass of the teacher (`layerwise.Layerwise`): each has its own loss, gradient clipping, best weights and end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.nn.utils import clip_grad_norm_

from kept.distillation.train.shards import full_tensor, zero_other_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from torch import Tensor, nn

    from kept.distillation.data.packing import Batch
    from kept.distillation.loss.chunked_loss import Losses


@dataclass(frozen=True)
class UpdateRule:
    """How the optimizer updates a parameter: learning rate relative to the schedule's, weight decay, trained rows.

    `rows` are the only rows that are trained; None: all.
    """

    lr_factor: float = 1.0
    weight_decay: float = 0.0
    rows: range | None = None

    def __post_init__(self) -> None:
        """Check that nothing changes rows that are not trained."""
        assert self.rows is None or not self.weight_decay, "weight decay would change the frozen rows"


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters by name, trained with one loss: clipped together, and kept as of the best measurement of that loss.

    `rules` are by parameter; one without a rule has the default. A group that another rank trains has no parameters
    on this rank. `merge` returns the weights that values of the parameters stand for; None: the values themselves.
    """

    name: str
    parameters: Mapping[str, nn.Parameter]
    max_grad_norm: float
    rules: Mapping[str, UpdateRule] = field(default_factory=dict)
    merge: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None

    def optimizer_groups(self) -> list[dict[str, Any]]:
        """Return AdamW's parameter groups: the parameters of each learning rate and weight decay."""
        found: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.parameters.items():
            rule = self.rules.get(name, UpdateRule())
            found.setdefault((rule.lr_factor, rule.weight_decay), []).append(parameter)
        return [
            {"params": parameters, "lr_factor": factor, "weight_decay": decay}
            for (factor, decay), parameters in found.items()
        ]

    def clip_gradients(self) -> float:
        """Zero the gradients of frozen rows, then clip to `max_grad_norm`. Returns the norm before clipping."""
        for name, rule in self.rules.items():
            gradient = self.parameters[name].grad
            if rule.rows is not None and gradient is not None:
                zero_other_rows(gradient, rule.rows)
        return float(full_tensor(clip_grad_norm_(list(self.parameters.values()), self.max_grad_norm)))

    def drop_gradients(self) -> None:
        """Remove the gradients, so that the optimizer leaves the parameters as they are."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the parameters, unsharded, in CPU memory."""
        return {name: full_tensor(parameter).clone() for name, parameter in self.parameters.items()}

    def merged(self, values: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the weights that values of the parameters stand for."""
        return values if self.merge is None else self.merge(values)

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Set the parameters, which are not sharded, to the values that `weights` returned."""
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])


class TrainingTask(Protocol):
    """The losses and parameter groups of a `Trainer`.

    Losses are iterated over: the trainer runs the backward of each group before it asks for the next, so one group's
    graph is in memory at a time. No context manager of torch may be open across a `yield`.
    """

    @property
    def groups(self) -> Sequence[ParameterGroup]:
        """The parameter groups, the same at each call. Names of groups and parameters are unique.

        Every rank has every group, in any order.
        """

    @property
    def splits_batches(self) -> bool:
        """Whether each rank computes some rows of a batch, and gradients are averaged over ranks.

        If not, each rank computes all rows for the groups that it alone trains.
        """

    def losses(self, batch: Batch, active: Collection[str]) -> Iterable[tuple[str, Losses]]:
        """Yield the losses of a batch for each group in `active` that this rank trains, with gradients in grad mode.

        Rows that do not count have a mask of 0.
        """

    def refit(self) -> Collection[str]:
        """Move parameters to optima in closed form, once before the first step. Returns the groups that moved.

        The trainer undoes the moves that do not decrease a group's held-out loss.
        """

    def text_losses(self, batch: Batch, active: Collection[str]) -> Iterable[tuple[str, Losses]]:
        """Yield the losses without a teacher on evaluation data; nothing if there are none."""

    def set_gradient_sync(self, *, enabled: bool) -> None:
        """Set whether the next backward reduces gradients over ranks: only the last of several that accumulate does."""

    def nonfinite_cause(self, batch: Batch, *, trained: bool) -> str | None:
        """Return which model has NaN or Inf on a batch, and where, if training is not the cause; None otherwise.

        `trained`: whether the weights were updated before. All ranks call this together.
        """
