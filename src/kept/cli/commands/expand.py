"""`kept expand`."""

from __future__ import annotations

from typing import Any

import click

from kept.cli.commands.convert import convert
from kept.cli.options import DRY_RUN, FOLDER, JSON, VERBOSE, SettingsCommand, given, settings
from kept.cli.replaced import FORCE
from kept.commands.expand import ExpandSettings


@click.command("expand", cls=SettingsCommand)
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
@settings(
    ExpandSettings,
    "groups",
    "blocks",
    "at",
    "placement",
    "tokenizer",
    "embedding_init",
    "pad_to_multiple_of",
    "tie",
    "text",
    "verify_tokens",
)
@VERBOSE
@DRY_RUN
@FORCE
@JSON
def command(source: str, out: str, *, as_json: bool, dry_run: bool, force: bool, verbose: bool, **options: Any) -> None:
    """Add layers or tokens to a model without changing its outputs.

    New layers are copies of the layers below them (LLaMA Pro, arXiv 2401.02415) whose output projections are zero, so
    the logits are the same bit for bit. OUT is of the same family. kept.json lists the new layers, and
    kept heal --train new trains only them.

    With --tokenizer, embedding and head get rows for the tokens that SOURCE's tokenizer does not have (see kept
    tokenizer merge). Text without a new token is processed as before; kept heal --train new trains only the new rows.

    An interrupted expansion continues if the command is run again.

    \b
    kept expand path/to/llama out/pro --groups 8 --blocks 1
    kept expand path/to/llama out/pro --at 4,9,14 --dry-run
    kept expand path/to/llama out/korean --tokenizer out/merged --groups 8
    kept heal out/pro --train new --loss ce --data new-domain/ --tokens 20M --out out/pro-trained
    """
    asked = ExpandSettings.from_table({}, source=source, out=out, **given(options))
    convert(asked.recipe, as_json=as_json, dry_run=dry_run, force=force, verbose=verbose)
