"""Pictures: whatever the numbers and the names, one comes out, and says in words what it shows."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from kept.pages.blocks import Heading
from kept.pages.chart_style import STYLES
from kept.pages.charts import (
    Curve,
    Interval,
    IntervalChart,
    IntervalRow,
    LineChart,
    Mark,
    Point,
    ScatterPlot,
    aligned,
)
from kept.pages.figures import draw
from kept.pages.plane import extent

if TYPE_CHECKING:
    from kept.pages.blocks import Block
    from kept.pages.charts import Chart

NASTY = (math.nan, math.inf, -math.inf, 0.0, -1.0, 5e-324, 1e-300, 1.7e308, 3.0)


def curve(*ys: float, name: str = "a", style: int = 0, error: float = 0.0) -> Curve:
    return Curve(name, tuple(Point(2.0**n, y, error) for n, y in enumerate(ys, 1)), style)


def lines(*curves: Curve, **more: Any) -> LineChart:
    return LineChart("caption", "in words", "x", "relative error", curves, **more)


def plane(*marks: Mark) -> ScatterPlot:
    return ScatterPlot("caption", "in words", "forgotten", "learned", "before", marks)


def intervals(*rows: tuple[str, float, float], summary: str = "in words", x: str = "x") -> IntervalChart:
    """A chart of one model: names, values and half of their intervals."""
    made = (IntervalRow(name, (Interval(value, value - half, value + half),)) for name, value, half in rows)
    return IntervalChart("caption", summary, x, ("a",), tuple(made))


def words(svg: str) -> list[str]:
    return [text.text or "" for text in ET.fromstring(svg).iter() if text.tag.endswith("text")]  # noqa: S314 - our own


@pytest.mark.parametrize("one", NASTY)
def test_no_number_is_too_odd(one: float) -> None:
    charts: list[Chart] = [
        lines(curve(one, 1.0, error=one), log_x=True, log_y=True),
        intervals(("a", one, 1.0), ("b", 1.0, one)),
        plane(Mark("a", one, 1.0, (1.0, one)), Mark("b", 1.0, one, (one, 1.0))),
    ]
    assert all(words(draw(chart, "p")) for chart in aligned(charts))


@pytest.mark.parametrize("ys", [NASTY, (-1e29, 1e29), (1e-29, 1e29), (3.0, 3.0), (math.nan,), ()])
def test_nor_are_several(ys: tuple[float, ...]) -> None:
    for log in (False, True):
        assert words(draw(lines(curve(*ys), log_y=log), "p"))


def test_a_name_is_text_and_never_a_formula() -> None:
    name = "$\\frac{1$ <b>&amp;"
    svg = draw(intervals((name, 1.0, 0.5), summary='in "words" & <tags>'), "p")
    assert name in words(svg)
    assert ET.fromstring(svg).get("aria-label") == 'in "words" & <tags>'  # noqa: S314 - our own


def test_a_long_name_leaves_room() -> None:
    assert "a" * 23 + "…" in words(draw(intervals(("a" * 200, 1.0, 0.5)), "p"))


def test_powers_are_words() -> None:
    found = words(draw(lines(curve(1e-14, 1e-6), log_y=True), "p"))
    assert "10⁻⁶" in found
    assert "0.02" in words(draw(lines(curve(0.012, 0.042), log_y=True), "p")), (
        "less than a decade has numbers of its own"
    )


def test_ids_are_the_picture_s_own() -> None:
    svg = draw(lines(curve(1.0, 2.0), curve(2.0, 3.0, style=1)), "left")
    ids = re.findall(r'\bid="([^"]+)"', svg)
    assert len(ids) == len(set(ids))
    assert all(one.startswith("left-") for one in ids)
    assert set(re.findall(r'href="#([^"]+)|url\(#([^)]+)', svg)) <= {(one, "") for one in ids} | {
        ("", one) for one in ids
    }


def test_curves_are_told_apart_without_colour() -> None:
    assert len({marker for _, marker, _ in STYLES}) == len({line for _, _, line in STYLES}) == len(STYLES)
    assert lines(curve(1.0)).legend == ()
    assert lines(curve(1.0), curve(2.0, name="b", style=1)).legend == (("a", 0), ("b", 1))


# ------------------------------------------------------------------------------------------------- axes to be compared


def test_charts_with_the_same_x_axis_have_the_same_range() -> None:
    short, long = lines(curve(1.0, 2.0)), lines(curve(1.0, 2.0, 3.0, 4.0))
    blocks: list[Block] = [Heading("held out"), short, long, intervals(("a", 9.0, 1.0))]
    heading, *charts = aligned(blocks)
    assert heading == Heading("held out")
    one, two, unlike = (chart.x_range for chart in charts if isinstance(chart, LineChart | IntervalChart))
    assert one == two == pytest.approx((2 - 0.04 * 14, 16 + 0.04 * 14))
    assert unlike == pytest.approx((-0.4, 10.4)), "differences have their zero"
    (alone,) = aligned((short,))
    assert isinstance(alone, LineChart)
    assert alone.x_range == pytest.approx((1.92, 4.08)), "the negative control: another range where there is no other"


def test_the_same_range_is_drawn_alike() -> None:
    short, long = aligned((lines(curve(0.1, 0.2)), lines(curve(0.1, 0.2, 0.1, 0.2))))
    ticks = [[word for word in words(draw(chart, "p")) if word.isdecimal()] for chart in (short, long)]
    assert ticks[0] == ticks[1] == ["3", "6", "9", "12", "15"]


def test_a_difference_that_may_be_none_is_hollow() -> None:
    hollow, full = (draw(intervals(("a", 1.0, half)), "p").count("fill: var(--c0)") for half in (1.5, 0.5))
    assert hollow < full


# ---------------------------------------------------------------------------------------------------------------- plane


def test_marks_have_their_names() -> None:
    svg = draw(plane(Mark("full", 2.0, 4.0, (0.1, 0.2)), Mark("$\\frac{1$", 0.5, 3.0)), "p")
    assert {"full", "$\\frac{1$", "before", "forgotten", "learned"} <= {*words(svg)}


def test_where_names_have_no_room_there_are_numbers() -> None:
    crowd = [Mark(f"<b>a name of some length {n}", 1.0, 1.0) for n in range(3)]
    drawn = draw(plane(*crowd), "p")
    svg, _, legend = drawn.partition("</svg>")
    assert {"0", "1", "2", "3"} <= {*words(f"{svg}</svg>")}
    assert "a name" not in svg
    assert "<span><b>0</b> before</span><span><b>1</b> &lt;b&gt;a name of some" in legend


def test_letters_that_are_wide_take_their_room() -> None:
    assert extent("확장")[0] > 1.5 * extent("ab")[0]
