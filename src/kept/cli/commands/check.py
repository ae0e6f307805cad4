"""`kept check`."""

from __future__ import annotations

from dataclasses import asdict

import click

from kept.cli.display import checkpoint
from kept.cli.display.console import complain, out_json
from kept.cli.options import FOLDER, JSON
from kept.progress_bars import ProgressBars


@click.command("check")
@click.argument("path", type=FOLDER)
@JSON
def command(path: str, *, as_json: bool) -> None:
    """Check that a checkpoint is complete and its weights are finite.

    Compares headers, index and config with the tensors, and the files with the hashes in kept.json. Finds NaN and Inf,
    and checks that the tokenizer loads and fits the model. Exit code 2: the checkpoint is damaged.

    \b
    kept check path/to/orion
    kept check out/llama --json | jq .damage
    """
    from kept.commands.check import check

    found = check(path, progress=ProgressBars())
    out_json({**asdict(found), "verdict": found.verdict}) if as_json else checkpoint.checked(found)
    if found.damage:
        complain(f"{path}: {found.verdict}")
        raise click.exceptions.Exit(2)
