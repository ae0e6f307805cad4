"""Style of charts: colours, markers, sizes, and the range of values that can be drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cycler import cycler

if TYPE_CHECKING:
    from collections.abc import Mapping

INK, RULE = "#0c0000", "#0c0001"
STYLES = (("#0c0010", "o", "-"), ("#0c0011", "s", "--"), ("#0c0012", "^", ":"), ("#0c0013", "D", "-."))
"""Colour, marker and line style of each curve, distinguishable without colour."""

COLOURS: Mapping[str, str] = {
    INK: "currentColor",
    RULE: "var(--rule)",
    **{colour: f"var(--c{n})" for n, (colour, _, _) in enumerate(STYLES)},
}
"""CSS value for each placeholder colour that matplotlib draws with."""

RC_PARAMS: dict[Any, Any] = {
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.prop_cycle": cycler(color=[colour for colour, _, _ in STYLES]),
    "axes.titlecolor": INK,
    "font.family": "sans-serif",
    "font.size": 10,
    "grid.color": RULE,
    "svg.fonttype": "none",
    "svg.hashsalt": "kept",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": RULE,
    "xtick.labelcolor": INK,
    "ytick.color": RULE,
    "ytick.labelcolor": INK,
}

WIDTH = 4.6
"""Width in inches, small enough for legible text on a phone."""

LONGEST_NAME = 24
"""Maximum length of a name in a chart, in characters."""

LARGEST = 1e30
"""Values above this, or below its inverse on a logarithmic scale, are not drawn: they would dominate the axis."""


def drawable(value: float, *, log: bool = False) -> bool:
    """Return whether a value can be drawn on an axis."""
    return abs(value) < LARGEST and (not log or value > 1 / LARGEST)  # a NaN compares false


def whisker(error: float) -> float:
    """Return the length of a whisker; 0 if the error is not a positive finite number."""
    return error if drawable(error) and error > 0 else 0.0


def shortened(name: str) -> str:
    """Return a name truncated to `LONGEST_NAME` characters."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
