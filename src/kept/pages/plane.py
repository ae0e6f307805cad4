"""A plane of named marks: each name beside its mark, or a number where names have no room."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unicodedata import east_asian_width

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kept.pages.labels import GAP, Box, places
from kept.pages.look import INK, RULE, STYLES, drawable, shortened, whisker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kept.pages.blocks import Mark, Plane
    from kept.pages.labels import Place

LETTERS = 9
"""Size of the letters of a label."""


def draw_plane(figure: Figure, axes: Axes, picture: Plane) -> Markup:
    """Marks with whiskers and names; what explains the numbers, where there are numbers in their place."""
    marks = [mark for mark in picture.marks if drawable(mark.x) and drawable(mark.y)]
    marks = [replace(mark, errors=(whisker(mark.errors[0]), whisker(mark.errors[1]))) for mark in marks]
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.plot([0], [0], "o", color=INK, markersize=5)
    for n, mark in enumerate(marks):
        colour, marker, _ = STYLES[n % len(STYLES)]
        x_error, y_error = mark.errors
        axes.errorbar(
            mark.x, mark.y, y_error, x_error, color=colour, marker=marker, markersize=6, capsize=2.5, elinewidth=0.9
        )
    axes.set_xlim(*_span([(mark.x, mark.errors[0]) for mark in marks]))
    axes.set_ylim(*_span([(mark.y, mark.errors[1]) for mark in marks]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.set_title(picture.y, loc="left", fontsize=10)
    axes.set_xlabel(picture.x)
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(b=True)
    return _labelled(figure, axes, picture.origin, marks)


def _span(places: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """An axis with all places, their errors and zero, and some room for names."""
    low = min(0.0, *(value - error for value, error in places))
    high = max(0.0, *(value + error for value, error in places))
    room = 0.12 * (high - low) or 1.0
    return low - room, high + room


def _labelled(figure: Figure, axes: Axes, origin: str, marks: Sequence[Mark]) -> Markup:
    """Write each name beside its mark, or numbers where names have no room, which are then explained."""
    figure.draw_without_rendering()  # the layout decides where marks are
    points, taken = _in_points(axes, [(0.0, 0.0, 0.0, 0.0), *((m.x, m.y, *m.errors) for m in marks)])
    edge = axes.get_window_extent()
    room = Box(*(72 / figure.dpi * side for side in (edge.x0, edge.y0, edge.x1, edge.y1)))
    names = [shortened(name) for name in (origin, *(mark.name for mark in marks))]
    found = places(points, [_extent(name) for name in names], taken, room, 2)
    if found is not None:
        _write(axes, names, marks, found)
        return Markup()
    numbers = [str(n) for n in range(len(names))]
    sizes = [_extent(number) for number in numbers]
    found = places(points, sizes, taken, room, 6) or places(points, sizes, [], room, 40)
    _write(axes, numbers, marks, found or [])
    spans = Markup("").join(Markup("<span><b>{}</b> {}</span>").format(*pair) for pair in enumerate(names))
    return Markup('<div class="legend">{}</div>').format(spans)


def _in_points(axes: Axes, marks: Sequence[tuple[float, float, float, float]]) -> tuple[list[Any], list[Box]]:
    """Where marks are, and what they, their whiskers and the zero lines cover."""
    scale = 72 / axes.figure.dpi

    def at(x: float, y: float) -> tuple[float, float]:
        px, py = axes.transData.transform((x, y))
        return float(px) * scale, float(py) * scale

    points, taken = [], []
    for x, y, x_error, y_error in marks:
        (px, py), (left, bottom), (right, top) = at(x, y), at(x - x_error, y - y_error), at(x + x_error, y + y_error)
        points.append((px, py))
        taken += [Box(px - 4, py - 4, px + 4, py + 4)]
        taken += [Box(left - 1, py - 3, right + 1, py + 3)] * bool(x_error)
        taken += [Box(px - 3, bottom - 1, px + 3, top + 1)] * bool(y_error)
    (zero_x, zero_y), far = at(0.0, 0.0), 1e4
    return points, [*taken, Box(zero_x - 1, -far, zero_x + 1, far), Box(-far, zero_y - 1, far, zero_y + 1)]


def _extent(name: str) -> tuple[float, float]:
    """Width and height of a label: about right for any font that a page may have."""
    wide = sum(east_asian_width(letter) in "WF" for letter in name)
    return LETTERS * (0.6 * (len(name) - wide) + 1.05 * wide), 1.15 * LETTERS


def _write(axes: Axes, names: Sequence[str], marks: Sequence[Mark], found: Sequence[Place]) -> None:
    across, up = {1: "left", 0: "center", -1: "right"}, {1: "bottom", 0: "center", -1: "top"}
    points = [(0.0, 0.0), *((mark.x, mark.y) for mark in marks)]
    for name, point, place in zip(names, points, found, strict=False):
        far = max(abs(place.dx), abs(place.dy)) > 2 * GAP
        label = axes.annotate(
            name,
            point,
            (place.dx, place.dy),
            textcoords="offset points",
            ha=across[place.side[0]],
            va=up[place.side[1]],
            fontsize=LETTERS,
            arrowprops={"arrowstyle": "-", "color": RULE, "linewidth": 0.8} if far else None,
        )
        label.set_in_layout(False)
