"""Rotary positions and the rules that scale their frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Linear:
    """Position interpolation (arXiv 2306.15595): every frequency is divided by `factor`."""

    KIND: ClassVar[str] = "linear"

    factor: float


@dataclass(frozen=True)
class Dynamic:
    """NTK-aware scaling that grows theta with the sequence once it passes the original length."""

    KIND: ClassVar[str] = "dynamic"

    factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class Llama3:
    """Llama 3.1: long wavelengths are divided by `factor`, short ones kept, a smooth ramp between."""

    KIND: ClassVar[str] = "llama3"

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True)
class Yarn:
    """YaRN (arXiv 2309.00071): a ramp over wavelengths, and a temperature on cos and sin."""

    KIND: ClassVar[str] = "yarn"

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    @property
    def temperature(self) -> float:
        """The factor on cos and sin."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self.growth(self.mscale) / self.growth(self.mscale_all_dim)
        return self.growth(1.0)

    def growth(self, mscale: float) -> float:
        """Return `0.1 mscale ln(factor) + 1`, with which temperatures grow with the factor; 1 up to a factor of 1."""
        return 1.0 if self.factor <= 1 else 0.1 * mscale * math.log(self.factor) + 1.0


@dataclass(frozen=True)
class LongRope:
    """LongRoPE (arXiv 2402.13753): one divisor per frequency, short and long."""

    KIND: ClassVar[str] = "longrope"

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    factor: float
    attention_factor: float | None = None

    @property
    def temperature(self) -> float:
        """The factor on cos and sin: `attention_factor`, else the one that transformers derives."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1 or self.original_max_position_embeddings == 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_max_position_embeddings))


@dataclass(frozen=True)
class Proportional:
    """The head is rotated as a whole, but frequencies past the first `dims / 2` are zero."""

    KIND: ClassVar[str] = "proportional"

    factor: float = 1.0


Scaling = Linear | Dynamic | Llama3 | Yarn | LongRope | Proportional


@dataclass(frozen=True)
class Rope:
    """Rotary positions (arXiv 2104.09864) on the first `dims` dimensions of each head.

    `interleaved` pairs dimension 2i with 2i+1; otherwise i pairs with i + half.
    """

    theta: float
    dims: int
    interleaved: bool = False
    scaling: Scaling | None = None

    def describe(self, head_dim: int) -> str:
        """Return the rotation in words, for heads of size `head_dim`."""
        turned = "" if self.dims == head_dim else f" on {self.dims} of {head_dim}"
        scaling = "" if self.scaling is None else f", {self.scaling.KIND}"
        return f"rope theta {self.theta:g}{turned}{scaling}{', interleaved' if self.interleaved else ''}"
