"""Charts as data, which `figures` draws. Charts of one section with the same x axis share its range."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, TypeVar

from kept.pages.ranges import drawable, span

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kept.pages.ranges import Range

    Legend = tuple[tuple[str, int], ...]
    Axis = tuple[type["Chart"], str, bool]
    """Kind of chart, name of the x axis, and whether it is logarithmic."""

    One = TypeVar("One")

DRAWN = 4
"""Maximum number of curves or models in a chart that can be distinguished."""


@dataclass(frozen=True)
class Point:
    """A point of a curve; `error` is half of the 95 % interval of `y`."""

    x: float
    y: float
    error: float = 0.0


@dataclass(frozen=True)
class Curve:
    """A line of a chart. `style` is an index into the styles of `chart_style.py`."""

    name: str
    points: tuple[Point, ...]
    style: int


@dataclass(frozen=True)
class LineChart:
    """A line chart. `summary` describes it in words for screen readers. `x_range`: limits of the x axis."""

    kind: ClassVar[str] = "picture"
    marked: ClassVar[bool] = False
    caption: str
    summary: str
    x: str
    y: str
    curves: tuple[Curve, ...]
    log_x: bool = False
    log_y: bool = False
    x_range: Range | None = None

    @property
    def legend(self) -> Legend:
        """Names with their styles; empty for a single curve."""
        return tuple((curve.name, curve.style) for curve in self.curves) if len(self.curves) > 1 else ()

    @property
    def xs(self) -> Iterator[float]:
        """The x coordinates that can be drawn."""
        return (point.x for curve in self.curves for point in curve.points if drawable(point.x, log=self.log_x))


@dataclass(frozen=True)
class Interval:
    """A value with the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def has_zero(self) -> bool:
        """Whether zero is in the interval; True if the interval is not known."""
        return not (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class IntervalRow:
    """A row of an interval chart: its name, and an interval for each model."""

    name: str
    intervals: tuple[Interval, ...]


@dataclass(frozen=True)
class IntervalChart:
    """Values with their 95 % intervals, a row for each quantity and a mark for each model.

    `differences`: zero is in the chart, and marks whose interval includes it are hollow.
    """

    kind: ClassVar[str] = "picture"
    marked: ClassVar[bool] = True
    caption: str
    summary: str
    x: str
    names: tuple[str, ...]
    rows: tuple[IntervalRow, ...]
    differences: bool = True
    x_range: Range | None = None

    @property
    def legend(self) -> Legend:
        """Names of the models with their styles; empty for a single model."""
        return tuple((name, style) for style, name in enumerate(self.names)) if len(self.names) > 1 else ()

    @property
    def xs(self) -> Iterator[float]:
        """The values and bounds that can be drawn, and the zero of differences."""
        yield from [0.0] * self.differences
        for row in self.rows:
            for one in row.intervals:
                yield from (x for x in (one.value, one.low, one.high) if drawable(x))


@dataclass(frozen=True)
class Mark:
    """A point of a scatter plot, and half of the 95 % intervals of both coordinates."""

    name: str
    x: float
    y: float
    errors: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class ScatterPlot:
    """A scatter plot of named points around a named origin."""

    kind: ClassVar[str] = "picture"
    marked: ClassVar[bool] = True
    caption: str
    summary: str
    x: str
    y: str
    origin: str
    marks: tuple[Mark, ...]
    x_range: Range | None = None
    legend: ClassVar[Legend] = ()

    @property
    def xs(self) -> Iterator[float]:
        """The x coordinates and bounds that can be drawn, and the origin."""
        yield 0.0
        for mark in self.marks:
            ends = (mark.x, mark.x - mark.errors[0], mark.x + mark.errors[0])
            yield from (x for x in ends if drawable(x))


Chart = LineChart | IntervalChart | ScatterPlot

MARGINS: dict[type[Chart], float] = {LineChart: 0.04, IntervalChart: 0.04, ScatterPlot: 0.12}
"""Part of an x axis that stays free at each end; names of marks need more."""


def aligned(blocks: Sequence[One]) -> tuple[One, ...]:
    """Return blocks in which charts of one kind with the same x axis have the same range."""
    found: dict[Axis, list[float]] = {}
    for chart in (one for one in blocks if isinstance(one, Chart)):
        found.setdefault(_axis(chart), []).extend(chart.xs)
    ranges = {axis: span(xs, MARGINS[axis[0]], log=axis[2]) for axis, xs in found.items()}
    return tuple(replace(one, x_range=ranges[_axis(one)]) if isinstance(one, Chart) else one for one in blocks)


def _axis(chart: Chart) -> Axis:
    """Return what two charts have in common if their x axes can be compared."""
    return type(chart), chart.x, isinstance(chart, LineChart) and chart.log_x
