"""Scatter plots of named points, with numbers in place of names that do not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from unicodedata import east_asian_width

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kept.pages.chart_style import INK, RULE, STYLES, shortened
from kept.pages.charts import MARGINS, Mark, ScatterPlot
from kept.pages.labels import GAP, Box, places
from kept.pages.ranges import drawable, span, whisker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from kept.pages.labels import Place
    from kept.pages.ranges import Range

LETTERS = 9
"""Font size of a label."""


def draw_plane(figure: Figure, axes: Axes, picture: ScatterPlot) -> Markup:
    """Draw points with whiskers and names. Return the legend of the numbers, empty if names fit."""
    marks = [mark for mark in picture.marks if drawable(mark.x) and drawable(mark.y)]
    marks = [replace(mark, errors=(whisker(mark.errors[0]), whisker(mark.errors[1]))) for mark in marks]
    axes.set_title(picture.y, loc="left", fontsize=10)
    axes.set_xlabel(picture.x)
    axes.grid(linewidth=0.6)
    axes.set_axisbelow(b=True)
    _draw(axes, marks)
    _scale(axes, marks, picture.x_range)
    return _name(figure, axes, picture.origin, marks)


def _draw(axes: Axes, marks: Sequence[Mark]) -> None:
    """Draw the points, and the origin with its two axes."""
    axes.axvline(0, color=INK, linewidth=0.8)
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.plot([0], [0], "o", color=INK, markersize=5)
    for n, mark in enumerate(marks):
        colour, marker, _ = STYLES[n % len(STYLES)]
        x_error, y_error = mark.errors
        style = {"color": colour, "marker": marker, "markersize": 6, "capsize": 2.5, "elinewidth": 0.9}
        axes.errorbar(mark.x, mark.y, y_error, x_error, **style)  # type: ignore[arg-type]


def _scale(axes: Axes, marks: Sequence[Mark], x_range: Range | None) -> None:
    room = MARGINS[ScatterPlot]
    axes.set_xlim(*(x_range or _limits([(mark.x, mark.errors[0]) for mark in marks], room)))
    axes.set_ylim(*_limits([(mark.y, mark.errors[1]) for mark in marks], room))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _limits(values: Sequence[tuple[float, float]], room: float) -> Range:
    """Return the limits of an axis that holds all values, their whiskers, zero and a margin for names."""
    found = span([0.0, *(value + sign * error for value, error in values for sign in (-1, 1))], room)
    assert found is not None, "zero is one of the values"
    return found


def _name(figure: Figure, axes: Axes, origin: str, marks: Sequence[Mark]) -> Markup:
    """Write the names beside the points, or numbers if names do not fit; return the legend of the numbers."""
    figure.draw_without_rendering()  # the layout decides where marks are
    places_of = _Places(axes, [Mark(origin, 0.0, 0.0), *marks])
    names = [shortened(name) for name in (origin, *(mark.name for mark in marks))]
    found = places_of(names, rings=2) or places_of(names, rings=4, on_lines=True)
    if found is not None:
        _write(axes, names, marks, found)
        return Markup()
    numbers = [str(n) for n in range(len(names))]
    found = places_of(numbers, rings=6) or places_of(numbers, rings=40, on_lines=True, on_marks=True)
    _write(axes, numbers, marks, found or [])
    spans = Markup().join(Markup("<span><b>{}</b> {}</span>").format(*pair) for pair in enumerate(names))
    return Markup('<div class="legend">{}</div>').format(spans)


class _Places:
    """Possible placements of labels in a drawn chart; lengths are typographic points."""

    def __init__(self, axes: Axes, marks: Sequence[Mark]) -> None:
        self.scale = 72 / axes.figure.dpi
        edge = axes.get_window_extent()
        self.room = Box(*(self.scale * side for side in (edge.x0, edge.y0, edge.x1, edge.y1)))
        self.points = [self._at(axes, mark.x, mark.y) for mark in marks]
        self.covered = [box for mark in marks for box in self._covered(axes, mark)]
        (x, y), far = self._at(axes, 0.0, 0.0), 1e4
        self.lines = [Box(x - 1, -far, x + 1, far), Box(-far, y - 1, far, y + 1)]

    def __call__(
        self, names: Sequence[str], *, rings: int, on_lines: bool = False, on_marks: bool = False
    ) -> list[Place] | None:
        """Return a placement for each name, None if there is none. Labels may be allowed on lines and points."""
        taken = [*self.covered] * (not on_marks) + [*self.lines] * (not on_lines)
        return places(self.points, [extent(name) for name in names], taken, self.room, rings)

    def _at(self, axes: Axes, x: float, y: float) -> tuple[float, float]:
        across, up = axes.transData.transform((x, y))
        return float(across) * self.scale, float(up) * self.scale

    def _covered(self, axes: Axes, mark: Mark) -> list[Box]:
        """Return the rectangles that a point and its whiskers cover."""
        x, y = self._at(axes, mark.x, mark.y)
        left, bottom = self._at(axes, mark.x - mark.errors[0], mark.y - mark.errors[1])
        right, top = self._at(axes, mark.x + mark.errors[0], mark.y + mark.errors[1])
        across, up = Box(left - 3, y - 3, right + 3, y + 3), Box(x - 3, bottom - 3, x + 3, top + 3)
        return [Box(x - 4, y - 4, x + 4, y + 4), *[across] * bool(mark.errors[0]), *[up] * bool(mark.errors[1])]


def extent(name: str) -> tuple[float, float]:
    """Return the approximate width and height of a label in any font, trailing space included."""
    wide = sum(east_asian_width(letter) in "WF" for letter in name)
    return LETTERS * (0.6 * (len(name) - wide) + 1.05 * wide + 0.4), 1.15 * LETTERS


def _write(axes: Axes, names: Sequence[str], marks: Sequence[Mark], found: Sequence[Place]) -> None:
    """Write the labels; those far from their point get a thin line to it."""
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
