"""Detect a training loss that is NaN or Inf, or far above the losses of the steps before."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass, field

from kept.errors import KeptError

SPIKE_FACTOR, WINDOW = 10.0, 50
"""A loss above `SPIKE_FACTOR` times the median of the last `WINDOW` losses is a spike; not before that many steps."""

MIN_RISE = 0.05
"""Nats by which a loss may always exceed the median: of a loss near zero, ten times the median is noise."""


class Diverged(KeptError):  # noqa: N818 - the established word
    """The loss is NaN or Inf, or rose far above the losses before."""


@dataclass
class SpikeDetector:
    """The last `WINDOW` training losses of a parameter group."""

    recent: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    @property
    def median(self) -> float:
        """The median of the last `WINDOW` losses; Inf while there are fewer."""
        return statistics.median(self.recent) if len(self.recent) == WINDOW else math.inf

    def accepts(self, loss: float, gradient_norm: float) -> bool:
        """Return whether loss and gradient norm are finite and the loss is no spike. Remembers an accepted loss."""
        limit = self.median + max((SPIKE_FACTOR - 1) * self.median, MIN_RISE)
        accepted = math.isfinite(loss) and math.isfinite(gradient_norm) and loss <= limit
        if accepted:
            self.recent.append(loss)
        return accepted
