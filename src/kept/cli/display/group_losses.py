"""Figures of parameter groups for a table: the value of the only group, or median and worst of several."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kept.formatting import finite_median

if TYPE_CHECKING:
    from collections.abc import Mapping

    Groups = Mapping[str, Mapping[str, Any]]
    """The values of each group in a line of a run's metrics."""


def loss(groups: Groups, name: str = "loss") -> str:
    """Return a loss: the median, and with several groups the highest."""
    found = [group[name] for group in groups.values() if name in group]
    if len(found) < 2:
        return "".join(f"{value:.4f}" for value in found)
    worst = max((value for value in found if math.isfinite(value)), default=math.nan)
    return f"{finite_median(found):.4f} (worst {worst:.4f})"


def held_out(groups: Groups) -> str:
    """Return the main loss of a measurement with its name: the KL if it was computed, else the loss."""
    name = "kl" if any("kl" in group for group in groups.values()) else "loss"
    return f"{name} {loss(groups, name)}" if groups else ""


def agreement(groups: Groups) -> str:
    """Return the top-1 agreement with the teacher; empty without a teacher."""
    median = finite_median(group.get("agreement", math.nan) for group in groups.values())
    return "" if math.isnan(median) else f"{100 * median:.2f} %"


def eval_data(groups: Groups, text: str) -> str:
    """Return the cross-entropy on an evaluation text; empty if no group has one."""
    found = [group["eval_data"].get(text, {}) for group in groups.values() if "eval_data" in group]
    median = finite_median(losses["ce"] for losses in found if "ce" in losses)
    return "" if math.isnan(median) else f"ce {median:.4f}"
