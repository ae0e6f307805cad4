"""Intervals of 95 % for proportions that are right for few items too.

Wilson's interval for one proportion (JASA 22, 1927). For the difference of two proportions over the same items,
Newcombe's method 10 (Statistics in Medicine 17, 1998), which combines the Wilson intervals of both with their
correlation. Neither has zero width where all items agree.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

Z = 1.959963984540054
"""The normal quantile of 97.5 %."""


def wilson(passed: float, count: int) -> tuple[float, float]:
    """Return the interval of the proportion `passed / count`, from 0 to 1."""
    share, square = passed / count, Z * Z / count
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * math.sqrt(max(0.0, share * (1 - share) / count + square / (4 * count)))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_interval(first: Sequence[bool], other: Sequence[bool]) -> tuple[float, float]:
    """Return the interval of the share that passes in `other` less that in `first`, over the same items."""
    count = len(first)
    a, b = sum(other), sum(first)
    p, q = a / count, b / count
    (p_low, p_high), (q_low, q_high) = wilson(a, count), wilson(b, count)
    phi = _correlation(first, other)

    def half(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    apart = p - q
    return max(-1.0, apart - half(p - p_low, q_high - q)), min(1.0, apart + half(p_high - p, q - q_low))


def _correlation(first: Sequence[bool], other: Sequence[bool]) -> float:
    """Return the correlation of two binary outcomes, corrected for continuity; 0 if one is constant."""
    count = len(first)
    both = sum(1 for x, y in zip(first, other, strict=True) if x and y)
    neither = sum(1 for x, y in zip(first, other, strict=True) if not (x or y))
    only_other, only_first = sum(other) - both, sum(first) - both
    margins = sum(other) * (count - sum(other)) * sum(first) * (count - sum(first))
    if not margins:
        return 0.0
    apart = float(both * neither - only_other * only_first)
    if apart > 0:
        apart = max(0.0, apart - count / 2)
    return apart / math.sqrt(margins)
