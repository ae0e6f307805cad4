"""Normalisations of the residual stream and of parts of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Norm:
    """A normalisation `(offset + gain) * x_hat + bias`; `kind` defines `x_hat`.

    layer: `(x - mean) / sqrt(var + eps)`; rms: `x / sqrt(mean(x^2) + eps)`; none: `x`, for a branch that reads the
    residual stream without a norm.
    """

    kind: Literal["layer", "rms", "none"]
    eps: float
    gain: bool = True
    bias: bool = False
    offset: float = 0.0


NO_NORM = Norm("none", 0.0, gain=False)
"""The norm of a branch that reads the residual stream as it is."""
