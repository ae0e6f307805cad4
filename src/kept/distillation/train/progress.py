"""The progress of a parameter group: its measurements, its best weights and its recent training losses."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kept.checkpoint.json_model import JsonModel, Number
from kept.distillation.train.divergence import SpikeDetector
from kept.distillation.train.measurement import GroupHistory, Measurement, best_measurement, has_plateaued

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from kept.distillation.train.task import ParameterGroup


class GroupState(JsonModel):
    """What a checkpoint stores of a group as JSON. The best weights are stored as tensors."""

    history: list[Measurement]
    recent: list[Number]
    stopped: str | None = None


@dataclass
class GroupProgress:
    """A parameter group, its held-out measurements, its weights at the best of them, and its recent training losses.

    `stopped`: why the group is not trained any more, if its loss diverged.
    """

    group: ParameterGroup
    history: list[Measurement] = field(default_factory=list)
    best: Mapping[str, Tensor] = field(default_factory=dict)
    spikes: SpikeDetector = field(default_factory=SpikeDetector)
    stopped: str | None = None

    def is_active(self, patience: int) -> bool:
        """Return whether the group is still trained: its loss neither diverged nor reached a plateau."""
        return self.stopped is None and not has_plateaued(self.history, patience)

    def stop(self, why: str) -> None:
        """End the training of the group. Its best weights stay."""
        self.stopped = why
        self.group.drop_gradients()

    def outcome(self) -> GroupHistory:
        """Return the measurements so far, and why the group was stopped."""
        return GroupHistory(tuple(self.history), self.stopped)

    def record(self, measurement: Measurement) -> None:
        """Add a measurement, and keep a copy of the weights if it is the best."""
        self.history.append(measurement)
        if measurement is best_measurement(self.history):
            self.best = self.group.weights()

    def keep_if_best(self) -> bool:
        """Return whether the last measurement is the best. If not, the parameters are set to the best weights."""
        is_best = self.history[-1] is best_measurement(self.history)
        if not is_best:
            self.group.load(self.best)
        return is_best

    def state(self) -> GroupState:
        """Return what a checkpoint stores as JSON."""
        return GroupState(history=self.history, recent=[*self.spikes.recent], stopped=self.stopped)

    def restore(self, state: GroupState, best: Mapping[str, Tensor]) -> None:
        """Restore the progress from `state` and from the best weights of all groups."""
        self.history, self.stopped = state.history, state.stopped
        self.spikes.recent.extend(state.recent)
        self.best = {name: best[name] for name in self.group.parameters}
