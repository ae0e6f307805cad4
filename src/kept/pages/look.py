"""How pictures look: colours that become the page's own, markers, sizes, and what an axis has a place for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cycler import cycler

if TYPE_CHECKING:
    from collections.abc import Mapping

INK, RULE = "#0c0000", "#0c0001"
STYLES = (("#0c0010", "o", "-"), ("#0c0011", "s", "--"), ("#0c0012", "^", ":"), ("#0c0013", "D", "-."))
"""Colour, marker and line of each curve in order: to be told apart without colour too."""

COLOURS: Mapping[str, str] = {
    INK: "currentColor",
    RULE: "var(--rule)",
    **{colour: f"var(--c{n})" for n, (colour, _, _) in enumerate(STYLES)},
}
"""What stands in the page for the colours that are drawn with: no other colour has these values."""

LOOK: dict[Any, Any] = {
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
"""Inches: on a phone the letters are still large enough to read."""

LONGEST_NAME = 24
"""Letters of a name in a picture."""

LARGEST = 1e30
"""What is larger, or on a logarithm smaller than its inverse, is not drawn: it would hide all else."""


def drawable(value: float, *, log: bool = False) -> bool:
    """Whether an axis has a place for it."""
    return abs(value) < LARGEST and (not log or value > 1 / LARGEST)  # a NaN compares false


def whisker(error: float) -> float:
    """An error as it is drawn: none where it is no number."""
    return error if drawable(error) and error > 0 else 0.0


def shortened(name: str) -> str:
    """A name that leaves room for its bar."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
