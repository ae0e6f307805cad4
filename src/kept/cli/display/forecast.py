"""Output of `kept plan` for a healing run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kept.cli.display.console import make_table, printer
from kept.formatting import amount, parameters

if TYPE_CHECKING:
    from kept.commands.forecast import Forecast
    from kept.distillation.cost.estimate import CostEstimate

CENT = 0.01
"""The lowest price that is shown as a number."""


def forecast_table(found: Forecast) -> dict[str, Any]:
    """Return a forecast as JSON values; sizes in bytes."""

    def table(cost: CostEstimate) -> dict[str, Any]:
        return {**asdict(cost), "bytes_per_rank": cost.bytes_per_rank, "fits": cost.fits}

    remedies = [{"change": change, **table(cost)} for change, cost in found.remedies]
    trainable = {"parameters": found.trainable.parameters, "of": found.trainable.of}
    return {"cluster": asdict(found.cluster), "trainable": trainable, **table(found.cost), "remedies": remedies}


def forecast(found: Forecast) -> None:
    """Print a forecast."""
    console, cost, cluster = printer(), found.cost, found.cluster
    counts = f"{parameters(found.trainable.parameters)} of {parameters(found.trainable.of)}"
    console.print(f"{cluster.name}: {counts} parameters are trainable")
    table = make_table("memory per rank", "")
    for name, size in cost.memory.items():
        table.add_row(name, amount(size, "bytes"))
    console.print(table)
    verdict = "fits" if cost.fits else "does not fit"
    console.print(f"{amount(cost.bytes_per_rank, 'bytes')} of {amount(cost.limit, 'bytes')}: {verdict}")
    money = f", {_price(cost.price)} at {cluster.price:g} per device-hour" if cluster.price else ""
    console.print(f"{cost.tokens_per_second:,.0f} tokens/s, {_hours(cost.hours)}{money}; bound by {cost.bound}")
    console.print("training steps only: start, held-out measurements, sampling and writing take additional time")
    if cost.fits:
        return
    changes = make_table("change", "memory per rank", "", "tokens/s")
    for change, after in found.remedies:
        fits = "fits" if after.fits else ""
        changes.add_row(change, amount(after.bytes_per_rank, "bytes"), fits, f"{after.tokens_per_second:,.0f}")
    console.print(changes)


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{60 * hours:.1f} minutes" if hours >= 1 / 60 else f"{max(1, 3600 * hours):.0f} s"


def _price(price: float) -> str:
    if price < CENT:
        return f"under {CENT}"
    return f"{price:.2f}" if price < 100 else f"{price:.0f}"
