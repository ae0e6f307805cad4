"""Figures of an evaluation as the page writes and draws them, and the items that they rest on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kept.evaluation.interval import Z
from kept.formatting import percent, singular, uncertain, within
from kept.pages.charts import Interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kept.evaluation.estimate import Figure

UNITS = {
    "text": "passages",
    "positions": "passages",
    "passkey": "trials",
    "agreement": "prompts",
    "mt-bench": "questions",
}
"""Names of the items of each part; those of other parts, which are tasks, are documents."""

LOWER = ("perplexity", "bits per byte", "bits_per_byte", "brier", "ter")
"""Words in the names of metrics that are better if they are lower."""


def notation(figures: Iterable[Figure]) -> str:
    """Return how the intervals and errors of these figures are written, in a sentence; empty if none has any."""
    known = [(not math.isnan(one.low), math.isfinite(one.error)) for one in figures]
    brackets, errors = any(low for low, _ in known), any(error and not low for low, error in known)
    said = ["brackets hold 95 % intervals"] * brackets + ["a figure after ± is one standard error"] * errors
    words = ", ".join(said)
    return f"{words[0].upper()}{words[1:]}." if said else ""


def interval(figure: Figure) -> Interval:
    """Return a figure with its 95 % interval: its own, or 1.96 standard errors."""
    if not math.isnan(figure.low):
        return Interval(figure.value, figure.low, figure.high)
    return Interval(figure.value, figure.value - Z * figure.error, figure.value + Z * figure.error)


def written(figure: Figure, *, signed: bool = False) -> str:
    """Return a figure with its own 95 % interval, or with its standard error."""
    if math.isnan(figure.low):
        return uncertain(figure.value, figure.error, signed=signed)
    return within(figure.value, figure.low, figure.high, signed=signed)


def share(figure: Figure) -> str:
    """Return a share in percent, with its 95 % interval or its standard error."""
    if math.isnan(figure.low):
        return percent(figure.value, figure.error)
    return f"{100 * figure.value:.3g} % {bounds(figure)}"


def bounds(figure: Figure) -> str:
    """Return the 95 % interval of a share in percent; empty if it is not known."""
    return "" if math.isnan(figure.low) else f"[{100 * figure.low:.0f}, {100 * figure.high:.0f}]"


def items(part: str, count: int) -> str:
    """Return a number of items with their name: 20 passages."""
    return f"{count:,} {singular(count, UNITS.get(part, 'documents'))}"


def items_each(part: str, counts: Sequence[int]) -> str:
    """Return the numbers of items of several measurements: 20 passages each, or 12 to 30 passages."""
    low, high = min(counts), max(counts)
    if low < high:
        return f"{low:,} to {items(part, high)}"
    return f"{items(part, low)}{' each' * (len(counts) > 1)}"


def lower_is_better(metric: str) -> bool:
    """Return whether a metric is a loss."""
    return any(word in metric for word in LOWER)


def listed(names: Sequence[str]) -> str:
    """Return names joined by commas and `and`."""
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last
