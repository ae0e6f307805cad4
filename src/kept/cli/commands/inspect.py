"""`kept inspect`."""

from __future__ import annotations

from dataclasses import asdict

import click

from kept.cli.display import checkpoint
from kept.cli.display.console import out_json
from kept.cli.options import FILE, FOLDER, JSON


@click.command("inspect")
@click.argument("path", type=FOLDER)
@click.option("--text", type=FILE, metavar="FILE", help="Also measure the inputs of each LayerNorm on this text.")
@click.option("--base", type=FOLDER, metavar="DIR", help="Base model of a LoRA adapter.")
@click.option("--adapter", type=FOLDER, metavar="DIR", help="A LoRA or DoRA adapter (peft) to merge into it.")
@click.option("--verbose", is_flag=True, help="Print every reason of a refusal, with its place and the way out.")
@JSON
def command(
    path: str, *, text: str | None, base: str | None, adapter: str | None, verbose: bool, as_json: bool
) -> None:
    """Show what a checkpoint is and which families it can be converted to.

    Shows the architecture, the size of weights and KV cache, the size of the norm biases relative to the gains, and
    for each target family the passes of a conversion or the reason why there is none.

    \b
    kept inspect path/to/orion
    kept inspect path/to/orion --json | jq .targets
    """
    from kept.commands.inspect import inspect
    from kept.ir.serialise import to_json

    found = inspect(path, text, base, adapter)
    out_json({**asdict(found), "spec": to_json(found.spec)}) if as_json else checkpoint.inspection(
        found, verbose=verbose
    )
