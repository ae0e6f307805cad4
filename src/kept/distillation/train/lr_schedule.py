"""Learning-rate schedules: warmup, then cosine, warmup-stable-decay (WSD, arXiv 2404.06395) or constant."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "wsd", "constant"]

DECAY = 0.2
"""The fraction of a WSD run in which the learning rate decays."""

FLOOR = 0.1
"""The learning rate at the end, relative to its maximum."""


def lr_factor(step: int, total: int, warmup: int, schedule: Schedule) -> float:
    """Return the learning rate relative to its maximum, in step `step` (from 0) of `total`."""
    if step < warmup:
        return (step + 1) / warmup
    left = max(1, total - warmup)
    done = min(1.0, (step - warmup) / left)
    if schedule == "cosine":
        return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2
    if schedule == "wsd" and done > 1 - DECAY:
        return math.pow(FLOOR, (done - (1 - DECAY)) / DECAY)
    return 1.0
