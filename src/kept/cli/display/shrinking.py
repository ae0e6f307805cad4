"""Output of `kept shrink-expanded`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from kept.cli.display.console import make_table, printer
from kept.cli.display.conversion import conversion
from kept.formatting import amount

if TYPE_CHECKING:
    from kept.commands.shrink import ShrinkResult


def shrunk_table(done: ShrinkResult) -> dict[str, Any]:
    """Return the result as plain data; `record` is the record of the output."""
    record = None if done.conversion is None else done.conversion.record
    layers = [asdict(one) for one in done.layers]
    return {
        "text": done.text,
        "layers": layers,
        "dropped": [*done.dropped],
        "together": done.together,
        "record": record,
    }


def shrunk(done: ShrinkResult, source: str) -> None:
    """`kept shrink-expanded`."""
    console = printer()
    table = make_table("layer", "copy of", "state", "contribution, nats/token", "")
    for one in done.layers:
        model = "removed" if one.copy_of is None else str(one.copy_of)
        worth = "not measured" if one.contribution is None else f"{one.contribution:.3g}"
        state = "untrained" if one.untrained else "trained"
        table.add_row(str(one.layer), model, state, worth, "dropped" if one.dropped else "kept")
    console.print(
        f"{source}: {amount(len(done.layers), 'expanded layers')}" + (f", on {done.text}" if done.text else "")
    )
    console.print(table)
    if not done.dropped:
        console.print(
            f"no layer is dropped; {'the model is passed on unchanged' if done.passed_on else 'nothing was written'}"
        )
        return
    console.print(f"all dropped layers together: {done.together:.3g} nats/token")
    if done.conversion is None:
        console.print("nothing was written")
    else:
        conversion(done.conversion)
