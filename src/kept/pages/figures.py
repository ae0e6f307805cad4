"""Charts as inline SVG that uses the font and colours of the page, light or dark."""

from __future__ import annotations

import io
import math
import re
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from kept.pages.chart_style import COLOURS, RC_PARAMS, STYLES, WIDTH
from kept.pages.charts import IntervalChart, LineChart, ScatterPlot
from kept.pages.interval_chart import draw_intervals, height
from kept.pages.plane import draw_plane
from kept.pages.ranges import drawable, whisker

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

    from kept.pages.charts import Chart, Curve

HEIGHT = 2.9
"""Height of line charts and scatter plots in inches."""

SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def draw(picture: Chart, name: str) -> Markup:
    """Return a chart as SVG; `name` prefixes its ids, which must be unique on the page.

    If the names of a scatter plot do not fit, points are numbered and the names follow in a legend.
    """
    legend = Markup()
    with mpl.rc_context(RC_PARAMS), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # letters that matplotlib's own font lacks, the page's has
        figure = Figure(
            figsize=(WIDTH, height(picture) if isinstance(picture, IntervalChart) else HEIGHT), layout="constrained"
        )
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(b=False)
        if isinstance(picture, ScatterPlot):
            legend = draw_plane(figure, axes, picture)
        else:
            _lines(axes, picture) if isinstance(picture, LineChart) else draw_intervals(axes, picture)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = Markup(_adopted(out.getvalue(), name, picture.summary))  # noqa: S704 - matplotlib escapes what it writes
    return svg + legend


def _lines(axes: Axes, picture: LineChart) -> None:
    drawn = [_shown(curve, log_x=picture.log_x, log_y=picture.log_y) for curve in picture.curves]
    for curve in drawn:
        _curve(axes, curve)
    axes.set_title(picture.y, loc="left", fontsize=10)
    axes.set_xlabel(picture.x)
    axes.grid(axis="y", linewidth=0.6)
    places = sorted({point.x for curve in drawn for point in curve.points})
    if picture.log_y and places:
        axes.set_yscale("log", nonpositive="mask")
        _powers(axes.yaxis)
    if picture.log_x and places:
        axes.set_xscale("log", base=2)
        axes.set_xticks(places, [f"{place:,.0f}" for place in places])
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
    if picture.x_range is not None:
        axes.set_xlim(*picture.x_range)


def _shown(curve: Curve, *, log_x: bool, log_y: bool) -> Curve:
    """Return the curve without points that cannot be drawn: NaN, Inf, huge values, and zero on a logarithmic scale."""
    places = (point for point in curve.points if drawable(point.x, log=log_x) and drawable(point.y, log=log_y))
    return replace(curve, points=tuple(replace(point, error=whisker(point.error)) for point in places))


def _curve(axes: Axes, curve: Curve) -> None:
    colour, marker, line = STYLES[curve.style % len(STYLES)]
    xs, ys = [point.x for point in curve.points], [point.y for point in curve.points]
    many = len(xs) > 40
    drawn = {"color": colour, "linestyle": line, "linewidth": 1.6, "marker": "" if many else marker, "markersize": 4.5}
    if curve.style:
        drawn["markerfacecolor"] = "none"
    if any(point.error for point in curve.points):
        errors = [point.error for point in curve.points]
        axes.errorbar(xs, ys, yerr=errors, capsize=2.5, elinewidth=0.9, **drawn)  # type: ignore[arg-type]
    else:
        axes.plot(xs, ys, **drawn)  # type: ignore[arg-type]


def _powers(axis: Axis) -> None:
    """Set ticks at powers of ten, or at a few numbers if the values span less than a factor of ten."""
    low, high = axis.get_view_interval()
    if high / low >= 10:
        axis.set_major_locator(LogLocator(10, numticks=6))
        axis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    else:
        axis.set_major_locator(LogLocator(10, subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0), numticks=6))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.set_minor_formatter(NullFormatter())


def _power(value: float) -> str:
    exponent = round(math.log10(value))
    return f"{value:g}" if -3 < exponent < 4 else f"10{str(exponent).translate(SUPERSCRIPTS)}"


def _short(value: float) -> str:
    """Return a count in short form: 500K, 2M."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _adopted(svg: str, name: str, summary: str) -> str:
    """Return the SVG with unique ids, the colours and font of the page, and a label for screen readers."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'font-family: [^;"]*;? ?', "", svg)
    for drawn, meant in COLOURS.items():
        svg = svg.replace(drawn, meant)
    label = Markup(' role="img" aria-label="{}"').format(summary)
    return svg.replace("<svg", f"<svg{label}", 1)
