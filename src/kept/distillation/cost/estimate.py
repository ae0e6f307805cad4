"""Predict memory, tokens per second, hours and price of a healing run on a cluster.

Bytes and operations are counted from the two specs. The fraction of its peak that a device reaches is measured or
assumed (`cluster.py`). docs/explanation/measurements.md compares predictions with runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.distillation.cost.memory import memory
from kept.distillation.cost.step_time import step_seconds, times

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.distillation.cluster import Cluster
    from kept.distillation.cost.run_shape import RunShape


@dataclass(frozen=True)
class CostEstimate:
    """The cost of a run on a cluster.

    `memory` is the bytes of one rank by purpose, `limit` the bytes that it has. `price` is in the cluster's currency.
    `bound` is the resource that takes the most time.
    """

    memory: Mapping[str, float]
    limit: float
    tokens_per_second: float
    hours: float
    price: float
    bound: str

    @property
    def bytes_per_rank(self) -> float:
        """The memory of one rank in bytes."""
        return sum(self.memory.values())

    @property
    def fits(self) -> bool:
        """Whether a rank has enough memory."""
        return self.bytes_per_rank <= self.limit


def cost(shape: RunShape, cluster: Cluster) -> CostEstimate:
    """Return the predicted cost of a run."""
    settings, seconds = shape.settings, times(shape, cluster)
    rate = settings.tokens_a_step / step_seconds(seconds, settings.gradient_accumulation)
    hours = settings.tokens / rate / 3600
    bound = max(seconds, key=seconds.__getitem__)
    price = hours * cluster.price * cluster.ranks
    return CostEstimate(memory(shape, cluster), cluster.memory, rate, hours, price, bound)
