"""Style of charts: colours, markers and sizes."""

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


def shortened(name: str) -> str:
    """Return a name truncated to `LONGEST_NAME` characters."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
