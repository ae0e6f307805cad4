"""Means of losses over batches and ranks, and the held-out measurements of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import TYPE_CHECKING

from pydantic import ConfigDict, field_validator
from pydantic.dataclasses import dataclass

from kept.checkpoint.json_model import Number

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kept.distillation.loss.chunked_loss import Losses

    Means = Mapping[str, float]
    """Mean losses by name."""

MIN_IMPROVEMENT = 1e-3
"""Relative decrease of the held-out loss that counts as an improvement."""


@dataclass(frozen=True, config=ConfigDict(strict=True))
class Measurement:
    """Held-out losses after a step, means in nats per token, and the top-1 agreement of student and teacher.

    `losses` weighs the sources as the mixture does; `sources` has each source by itself, `eval_data` the cross-entropy
    of each evaluation text.
    """

    step: int
    tokens: int
    losses: Mapping[str, Number]
    agreement: Number
    sources: Mapping[str, Mapping[str, Number]] = field(default_factory=dict)
    eval_data: Mapping[str, Mapping[str, Number]] = field(default_factory=dict)

    @field_validator("losses")
    @classmethod
    def _has_objective(cls, losses: Mapping[str, float]) -> Mapping[str, float]:
        if "loss" not in losses:
            raise ValueError("has no loss")
        return losses

    def line(self) -> dict[str, object]:
        """Return the values for a line of the metrics."""
        rest = {"agreement": self.agreement, "sources": self.sources, "eval_data": self.eval_data}
        return {**self.losses, **rest}


def best_measurement(history: Sequence[Measurement]) -> Measurement:
    """Return the first measurement with the lowest held-out loss; NaN is above all."""
    return min(history, key=lambda one: math.inf if math.isnan(one.losses["loss"]) else one.losses["loss"])


def has_plateaued(history: Sequence[Measurement], patience: int) -> bool:
    """Return whether the held-out loss did not improve in the last `patience` measurements; never if it is 0."""
    if not patience or len(history) <= patience:
        return False
    losses = [one.losses["loss"] for one in history]
    return min(losses[-patience:]) > (1 - MIN_IMPROVEMENT) * min(losses[:-patience])


@dataclass(frozen=True)
class GroupHistory:
    """The held-out measurements of a parameter group in order; `stopped`: why it ended early, if its loss diverged."""

    measurements: tuple[Measurement, ...]
    stopped: str | None = None

    @property
    def best(self) -> Measurement:
        """The measurement whose weights were kept."""
        return best_measurement(self.measurements)


class LossSums:
    """Sums of losses over tokens, by parameter group and name of the loss. `loss` is the group's objective."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, str], float] = {}

    def add(self, group: str, found: Losses) -> None:
        """Add the losses of a batch, which are means over its tokens."""
        agreement = {} if found.agreement is None else {"agreement": found.agreement}
        for name, value in {"loss": found.total.detach(), **found.means, **agreement}.items():
            self.values[group, name] = self.values.get((group, name), 0.0) + float(value) * found.tokens


def mean_losses(sums: Iterable[LossSums], tokens: float) -> dict[str, dict[str, float]]:
    """Return means by group and name, given the sums of each rank, which may have different groups."""
    totals: dict[tuple[str, str], float] = {}
    for one in sums:
        for key, value in one.values.items():
            totals[key] = totals.get(key, 0.0) + value
    means: dict[str, dict[str, float]] = {}
    for (group, name), total in totals.items():
        means.setdefault(group, {})[name] = total / max(1.0, tokens)
    return means


def of_group(means: Mapping[str, Mapping[str, Means]], group: str) -> dict[str, Means]:
    """Return the mean losses of a group by text. A text is left out if the group has no losses on it."""
    return {text: found[group] for text, found in means.items() if group in found}


def group_measurement(
    step: int, tokens: int, weights: Mapping[str, float], sources: Mapping[str, Means], texts: Mapping[str, Means]
) -> Measurement:
    """Return the measurement of a group from its mean losses by source and by evaluation text."""
    keys = next(iter(sources.values()))
    means = {key: sum(weight * sources[name][key] for name, weight in weights.items()) for key in keys}
    agreement = means.pop("agreement", math.nan)
    eval_data = {text: {key: v for key, v in found.items() if key != "loss"} for text, found in texts.items()}
    return Measurement(step, tokens, means, agreement, sources, eval_data)
