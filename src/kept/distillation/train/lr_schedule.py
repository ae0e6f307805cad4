"""How the learning rate goes: a warm-up, then a cosine, or a plateau and a decay (WSD, arXiv 2404.06395)."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["cosine", "wsd", "constant"]

DECAY = 0.2
"""The part of a WSD run in which the rate falls."""

FLOOR = 0.1
"""What is left of the rate at the end."""


def factor(step: int, total: int, warmup: int, schedule: Schedule) -> float:
    """What the learning rate is multiplied by in step `step` (from 0) of `total`."""
    if step < warmup:
        return (step + 1) / warmup
    left = max(1, total - warmup)
    done = min(1.0, (step - warmup) / left)
    if schedule == "cosine":
        return FLOOR + (1 - FLOOR) * (1 + math.cos(math.pi * done)) / 2
    if schedule == "wsd" and done > 1 - DECAY:
        return math.pow(FLOOR, (done - (1 - DECAY)) / DECAY)
    return 1.0
