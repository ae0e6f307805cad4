"""Make the norm of a latent the identity, with constant coordinates that dominate its mean square.

The classes of latent attention normalise the latent. If some of its coordinates are constants 2^k c_i with
sum c_i^2 = r, the size of the latent, then the root mean square is 2^k up to |v|^2 / (2 r 4^k) for the other
coordinates v. A gain of 2^k on v gives v back, and a gain of 0 makes the constants zero in the cache.
"""

from __future__ import annotations

from math import isqrt

LARGEST_FACTOR = 256
"""Whole numbers up to this are exact in bfloat16."""

GAIN = 2.0**30
"""2^k: the error is |v|^2 2^-61 / r, below the rounding of float64. Squares are finite in float32, not in float16."""

MOST_CONSTANTS = 4
"""For a few small sizes four constants are not enough, and coordinates of zero are added to the latent."""


def constant_coordinates(size: int) -> tuple[float, ...]:
    """Return the constants to add to a latent of `size` coordinates, as few as there can be. Some may be zero.

    The sum of the squares of their factors is the size of the latent, the constants included.
    """
    sums = ((idle, count) for idle in range(3) for count in range(1, MOST_CONSTANTS + 1))
    found = (((*[0] * idle,), _squares(size + idle + count, count, LARGEST_FACTOR)) for idle, count in sums)
    factors = next((*squares, *idle) for idle, squares in found if squares is not None)
    return tuple(GAIN * factor for factor in factors)


def _squares(total: int, count: int, largest: int) -> tuple[int, ...] | None:
    """Return `count` numbers from 1 to `largest` whose squares have the sum `total`, in falling order; None if none."""
    if count == 0:
        return () if total == 0 else None
    for first in range(min(isqrt(max(0, total - count + 1)), largest), 0, -1):
        if first**2 * count < total:
            return None
        rest = _squares(total - first**2, count - 1, first)
        if rest is not None:
            return (first, *rest)
    return None
