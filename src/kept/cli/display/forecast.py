"""Output of `kept plan` for a healing run."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kept.cli.display.console import make_table, printer
from kept.formatting import amount, parameters

if TYPE_CHECKING:
    from kept.commands.forecast import Forecast
    from kept.distillation.cost import CostEstimate

CENT = 0.01
"""The lowest price that is shown."""


def forecast_table(found: Forecast) -> dict[str, Any]:
    """A plan of healing as plain data; sizes in bytes."""

    def table(cost: CostEstimate) -> dict[str, Any]:
        return {**asdict(cost), "bytes_per_rank": cost.bytes_per_rank, "fits": cost.fits}

    ways = [{"way": words, **table(cost)} for words, cost in found.ways_out]
    learned = {"parameters": found.learned.parameters, "of": found.learned.of}
    return {"cluster": asdict(found.cluster), "learned": learned, **table(found.cost), "ways_out": ways}


def forecast(found: Forecast) -> None:
    """`kept plan` of a recipe for healing."""
    console, cost, cluster = printer(), found.cost, found.cluster
    learned = f"{parameters(found.learned.parameters)} of {parameters(found.learned.of)} parameters learn"
    console.print(f"{cluster.name}: {learned}")
    table = make_table("memory of a rank", "")
    for name, size in cost.memory.items():
        table.add_row(name, amount(size, "bytes"))
    console.print(table)
    verdict = "it fits" if cost.fits else "it does not fit"
    console.print(f"{amount(cost.bytes_per_rank, 'bytes')} of {amount(cost.limit, 'bytes')}: {verdict}")
    money = f", {_price(cost.price)} at {cluster.price:g} an hour and machine" if cluster.price else ""
    console.print(f"{cost.tokens_per_second:,.0f} tokens/s, {_hours(cost.hours)}{money}; bound by {cost.bound}")
    console.print("of the steps alone: start, held-out measurements, sampling and writing come on top")
    if cost.fits:
        return
    ways = make_table("what takes less", "a rank", "", "tokens/s")
    for words, way in found.ways_out:
        fits = "fits" if way.fits else ""
        ways.add_row(words, amount(way.bytes_per_rank, "bytes"), fits, f"{way.tokens_per_second:,.0f}")
    console.print(ways)


def _hours(hours: float) -> str:
    if hours >= 1:
        return f"{hours:.1f} hours"
    return f"{60 * hours:.1f} minutes" if hours >= 1 / 60 else f"{max(1, 3600 * hours):.0f} s"


def _price(price: float) -> str:
    if price < CENT:
        return f"under {CENT}"
    return f"{price:.2f}" if price < 100 else f"{price:.0f}"
