"""`kept verify`."""

from __future__ import annotations

from typing import Any

import click

from kept.cli.display.console import complain, out_json
from kept.cli.options import FOLDER, JSON, VERBOSE, settings
from kept.commands.step_settings import VerifySettings
from kept.progress_bars import ProgressBars
from kept.recipe import Recipe


@click.command("verify")
@click.argument("source", type=FOLDER)
@click.argument("out", type=FOLDER)
@settings(VerifySettings, "text", "tokens", "streamed")
@settings(Recipe, "tie")
@VERBOSE
@JSON
def command(source: str, out: str, *, as_json: bool, verbose: bool, **options: Any) -> None:
    """Compare a converted model with its source.

    The first line is the result: identical to the bit, or the largest logit difference in OUT's dtype. --verbose adds
    the comparison with SOURCE in float64: logits, KL divergence, perplexity, the output of every layer, and texts.
    Exit code 1: the models differ by more than the passes of the conversion promised.

    \b
    kept verify path/to/orion out/llama --text my.txt
    kept verify path/to/orion out/llama --streamed --json
    """
    from kept.cli.display.verification import verification
    from kept.cli.options import given
    from kept.commands.verify import verify
    from kept.output.write_record import verification_table

    found = verify(source, out, **given(options), progress=ProgressBars())
    out_json(verification_table(found)) if as_json else verification(found, verbose=verbose)
    if found.failure is not None:
        complain(f"{out}: the promise ({found.promise}) is broken: {found.failure}")
        raise click.exceptions.Exit(1)
