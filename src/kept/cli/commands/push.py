"""`kept push`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from kept.cli.display.console import hint, out_json
from kept.cli.options import FOLDER, JSON
from kept.errors import shown
from kept.formatting import amount
from kept.progress_bars import ProgressBars


@click.command("push")
@click.argument("path", type=FOLDER)
@click.argument("repository", metavar="ORG/NAME")
@click.option("--private/--public", default=True, show_default="private", help="Who sees a new repository.")
@click.option("--force", is_flag=True, help="Upload even if the promise is broken or files changed since.")
@click.option("--dry-run", is_flag=True, help="Check everything, show what would be uploaded, and upload nothing.")
@JSON
def command(path: str, repository: str, *, as_json: bool, **options: Any) -> None:
    """Upload an output to the Hugging Face hub.

    Uploads the files that kept.json names, kept.json, and the model card with base_model, licence and tags. Refuses an
    output whose promise is broken, or whose files changed since they were written. Log in first: hf auth login.

    \b
    kept push out/llama org/orion-llama --dry-run
    kept push out/llama org/orion-llama
    """
    from kept.commands.push import push

    done = push(path, repository, progress=ProgressBars(), **options)
    if as_json:
        out_json(asdict(done))
        return
    for name, size in done.files.items():
        click.echo(shown(f"  {name}  {amount(size, 'bytes')}"))
    for key, value in done.metadata.items():
        hint(f"{key}: {value}")
    click.echo(shown(f"{done.repository}: {done.url or 'nothing was uploaded'}"))
