"""`kept shrink-expanded`."""

from __future__ import annotations

from typing import Any

import click

from kept.cli.display import shrinking
from kept.cli.display.console import out_json
from kept.cli.options import DRY_RUN, FOLDER, JSON, SettingsCommand, given, settings
from kept.cli.replaced import FORCE, refuse_force, replaced
from kept.commands.shrink import ShrinkSettings
from kept.progress_bars import ProgressBars


@click.command("shrink-expanded", cls=SettingsCommand)
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
@settings(ShrinkSettings, without=("source", "out"))
@DRY_RUN
@FORCE
@JSON
def command(source: str, out: str, *, as_json: bool, dry_run: bool, force: bool, **options: Any) -> None:
    """Remove added layers that contribute almost nothing.

    The contribution of an added layer is the KL divergence between the model with it and the model without it, in nats
    per token. Layers are dropped, the smallest contribution first, as long as the KL divergence that all of them cause
    together is less than --max-kl. Dropping a layer that was never trained restores the weights from before the
    expansion byte for byte. If no layer is dropped, nothing is written.

    An interrupted run continues if the command is run again.

    \b
    kept shrink-expanded out/pro-trained out/small --dry-run
    kept shrink-expanded out/pro-trained out/small --max-kl 1e-3 --text mine.txt
    kept shrink-expanded out/pro out/llama --untrained
    """
    from kept.commands.shrink import shrink

    asked = ShrinkSettings.from_table({}, source=source, out=out, **given(options))
    if dry_run:
        refuse_force(force=force)
    with replaced(asked.out, asked, force=force):
        done = shrink(asked, ProgressBars(), dry=dry_run)
    out_json(shrinking.shrunk_table(done)) if as_json else shrinking.shrunk(done, source)
