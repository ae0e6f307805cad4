"""Drawing of interval charts: a row for each quantity, a mark with a whisker for each model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.ticker import FuncFormatter, MaxNLocator

from kept.pages.chart_style import INK, STYLES, shortened
from kept.pages.ranges import drawable, whisker

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from kept.pages.charts import Interval, IntervalChart

SPREAD = 0.6
"""Part of a row's height over which the marks of its models are spread."""


def height(chart: IntervalChart) -> float:
    """Return the height of a chart in inches."""
    return 0.75 + len(chart.rows) * (0.2 + 0.15 * len(chart.names))


def draw_intervals(axes: Axes, chart: IntervalChart) -> None:
    """Draw the rows from top to bottom, and a line at zero if the values are differences."""
    count = len(chart.names)
    for y, row in enumerate(chart.rows):
        for n, interval in enumerate(row.intervals):
            _mark(axes, interval, y + SPREAD * ((n + 0.5) / count - 0.5), n, hollow=chart.differences)
    axes.set_yticks(range(len(chart.rows)), [shortened(row.name) for row in chart.rows])
    axes.set_ylim(len(chart.rows) - 0.5, -0.5)
    if chart.differences:
        axes.axvline(0, color=INK, linewidth=0.8)
    if chart.x_range is not None:
        axes.set_xlim(*chart.x_range)
    axes.spines["left"].set_visible(b=False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axes.grid(axis="x", linewidth=0.6)
    axes.set_axisbelow(b=True)
    axes.set_xlabel(chart.x)


def _mark(axes: Axes, interval: Interval, y: float, style: int, *, hollow: bool) -> None:
    """Draw a value with its whisker; hollow if that includes zero."""
    if not drawable(interval.value):
        return
    colour, marker, _ = STYLES[style % len(STYLES)]
    low, high = whisker(interval.value - interval.low), whisker(interval.high - interval.value)
    face = "none" if hollow and interval.has_zero else colour
    look = {"color": colour, "marker": marker, "markersize": 5, "markerfacecolor": face, "elinewidth": 1.2}
    axes.errorbar(interval.value, y, xerr=[[low], [high]], capsize=2.5, linestyle="none", **look)  # type: ignore[arg-type]
