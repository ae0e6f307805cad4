"""Settings of a truncation: size of the cache, method, and rule for the ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Method = Literal["whitened", "transmla", "paper"]

RankRule = Literal["uniform", "per-layer"]


@dataclass(frozen=True)
class TruncationSettings:
    """The cache to reach, and how.

    One of: `share` of the source's cached numbers, constants of the latent's norm included; `sizes`, the width of the
    rotary key and the rank of the latent; `energy`, the part of the measured energy that components keep.
    """

    share: float | None = None
    sizes: tuple[int, int] | None = None
    energy: float | None = None
    method: Method = "whitened"
    ranks: RankRule = "uniform"
    refit: bool = True
