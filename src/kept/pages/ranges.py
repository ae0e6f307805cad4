"""The range of values that can be drawn, and the limits of axes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    Range = tuple[float, float]

LARGEST = 1e30
"""Values above this, or below its inverse on a logarithmic scale, are not drawn: they would dominate the axis."""


def drawable(value: float, *, log: bool = False) -> bool:
    """Return whether a value can be drawn on an axis."""
    return abs(value) < LARGEST and (not log or value > 1 / LARGEST)  # a NaN compares false


def whisker(error: float) -> float:
    """Return the length of a whisker; 0 if the error is not a positive finite number."""
    return error if drawable(error) and error > 0 else 0.0


def span(values: Sequence[float], margin: float, *, log: bool = False) -> Range | None:
    """Return the limits of an axis that holds these values with a margin; None if there are no values."""
    if not values:
        return None
    low, high = min(values), max(values)
    if log:
        room = (high / low) ** margin if high > low else 2.0
        return low / room, high * room
    room = margin * (high - low) or 1.0
    return low - room, high + room
