"""Placement of point labels without overlap with labels, points and whiskers. Lengths are typographic points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

GAP = 6.0
"""Distance between a point and its label."""

SIDES = ((1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1), (0, 1), (0, -1))
"""Directions (x, y) from a point to its label, in order of preference."""


@dataclass(frozen=True)
class Box:
    """A rectangle."""

    left: float
    bottom: float
    right: float
    top: float

    def meets(self, other: Box) -> bool:
        """Return whether two rectangles overlap."""
        across = self.left < other.right and other.left < self.right
        return across and self.bottom < other.top and other.bottom < self.top

    def within(self, other: Box) -> bool:
        """Return whether the rectangle is inside another."""
        across = other.left <= self.left and self.right <= other.right
        return across and other.bottom <= self.bottom and self.top <= other.top


@dataclass(frozen=True)
class Place:
    """The placement of a label: offset from its point, direction, and covered rectangle."""

    dx: float
    dy: float
    side: tuple[int, int]
    box: Box


def places(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    taken: Sequence[Box],
    room: Box,
    rings: int,
) -> list[Place] | None:
    """Return a placement for each label, at most `rings` gaps from its point; None if there is none for all.

    `sizes` are (width, height). A label without a free place is placed first in the next attempt, at most as many
    attempts as labels.
    """
    order = [*range(len(points))]
    for _ in points:
        found, left = _attempt(order, points, sizes, taken, room, rings)
        if left is None:
            return [found[n] for n in range(len(points))]
        order.remove(left)
        order.insert(0, left)
    return None if points else []


def _attempt(
    order: Sequence[int],
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    taken: Sequence[Box],
    room: Box,
    rings: int,
) -> tuple[dict[int, Place], int | None]:
    """Return the placements in this order, and the first label without a free place."""
    found: dict[int, Place] = {}
    for n in order:
        hidden = [*taken, *(place.box for place in found.values())]
        free = (p for p in _around(points[n], sizes[n], rings) if p.box.within(room) and not _any(p.box, hidden))
        place = next(free, None)
        if place is None:
            return found, n
        found[n] = place
    return found, None


def _any(box: Box, others: Sequence[Box]) -> bool:
    return any(box.meets(other) for other in others)


def _around(point: tuple[float, float], size: tuple[float, float], rings: int) -> Iterator[Place]:
    (x, y), (width, height) = point, size
    for ring in range(1, rings + 1):
        for across, up in SIDES:
            # A diagonal step moves along both axes, so each is shorter.
            gap = GAP * ring * (0.5 if across and up else 1.0)
            dx, dy = across * gap, up * gap
            left, bottom = x + dx + width * (across - 1) / 2, y + dy + height * (up - 1) / 2
            yield Place(dx, dy, (across, up), Box(left, bottom, left + width, bottom + height))
