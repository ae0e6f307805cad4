"""The message of each rank to the others after a step: its losses, its gradient norms, and whether to save or stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kept.distillation.train.measurement import mean_losses

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kept.distillation.train.measurement import LossSums


@dataclass(frozen=True)
class StepDecision:
    """The decision after a step: `save`, since `save_minutes` have passed; `stop`, on a signal."""

    save: bool = False
    stop: bool = False


@dataclass(frozen=True)
class RankReport:
    """Sums of losses and gradient norms of the groups that a rank trains, and its decision."""

    sums: LossSums
    decision: StepDecision
    norms: Mapping[str, float] = field(default_factory=dict)


def common_decision(reports: Sequence[RankReport]) -> StepDecision:
    """Return the decision of all ranks: to save or to stop if one of them decided so."""
    return StepDecision(any(one.decision.save for one in reports), any(one.decision.stop for one in reports))


def group_means(reports: Sequence[RankReport], tokens: float) -> dict[str, dict[str, float]]:
    """Return mean losses over all ranks by group and name, and the `gradient_norm` of each group that has one."""
    means = mean_losses([one.sums for one in reports], tokens)
    for name, norm in (pair for one in reports for pair in one.norms.items()):
        means[name]["gradient_norm"] = norm
    return means
