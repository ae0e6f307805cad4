"""`kept generate`."""

from __future__ import annotations

from typing import Any

import click

from kept.cli.display import texts
from kept.cli.display.console import out_json
from kept.cli.display.progress import ProgressBars
from kept.cli.options import FOLDER, JSON


@click.command("generate")
@click.argument("path", type=FOLDER)
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    help="Text to continue. May be given several times. [default: Once upon a time]",
)
@click.option("--max-new-tokens", default=64, show_default=True, help="Maximum number of new tokens.")
@click.option("--temperature", default=0.0, show_default=True, help="Sampling temperature; 0: greedy decoding.")
@click.option(
    "--top-p",
    default=1.0,
    show_default=True,
    help="Nucleus sampling: sample from the most likely tokens whose probabilities add up to this.",
)
@click.option("--seed", default=0, show_default=True, help="Seed of the sampling.")
@JSON
def command(path: str, prompts: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Generate text with a model.

    Works for every family that kept reads, including those that transformers has no class for.

    \b
    kept generate out/llama --prompt "Once upon a time"
    kept generate path/to/orion --prompt "def add(" --temperature 0.8 --top-p 0.9
    """
    from kept.commands.generate import generate

    found = generate(path, prompts or ("Once upon a time",), reporter=ProgressBars(), **options)
    out_json(found) if as_json else texts.generations(found)
