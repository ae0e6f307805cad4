"""`kept convert`."""

from __future__ import annotations

from typing import Any

import click

from kept.cli.display import conversion as display
from kept.cli.display.console import out_json
from kept.cli.options import DRY_RUN, FILE, FOLDER, JSON, VERBOSE, SettingsCommand, given, settings
from kept.cli.replaced import FORCE, refuse_force, replaced
from kept.progress_bars import ProgressBars
from kept.recipe import Recipe, load_recipe, recipe_from

CACHE = ("kv", "kv_ranks", "kv_energy", "kv_method", "ranks")
"""Settings of a smaller KV cache."""

CHOICES = ("to", "norm", "final_bias", "rope", "context", "tie", "dtype", "base", "adapter", *CACHE)
"""Settings that decide what is computed."""

MEASURED = ("kv_refit", "data", "calibration_tokens")
"""Settings of what is measured."""

RECIPE = click.option(
    "--recipe",
    type=FILE,
    help="A TOML file with any of these options; options on the command line override it.",
)


@click.command("convert", cls=SettingsCommand)
@click.argument("source", type=FOLDER, required=False)
@click.argument("out", type=FOLDER, required=False)
@settings(Recipe, *CHOICES, *MEASURED, "max_shard_size", "text", "verify_tokens")
@RECIPE
@VERBOSE
@DRY_RUN
@FORCE
@JSON
def command(
    source: str | None,
    out: str | None,
    recipe: str | None,
    *,
    as_json: bool,
    dry_run: bool,
    force: bool,
    verbose: bool,
    **options: Any,
) -> None:
    """Convert a checkpoint to another architecture and verify the result.

    OUT is a new directory that stock tools load. An interrupted conversion continues if the command is run again.
    Exit code 1: the result differs from SOURCE by more than its passes promise; it is renamed to OUT.unkept.

    \b
    kept convert path/to/orion out/llama
    kept convert path/to/orion out/plain --norm opm
    kept convert path/to/orion out/llama --dtype float32 --text my.txt
    kept convert path/to/llama out/half --to deepseek_v3 --kv 50% --data books.txt --data code/
    kept convert path/to/orion out/llama --dry-run
    kept convert path/to/orion out/llama --dtype bf16 --force
    kept convert --recipe recipe.toml
    """
    asked = recipe_of(recipe, source=source, out=out, **options)
    convert(asked, as_json=as_json, dry_run=dry_run, force=force, verbose=verbose)


def convert(asked: Recipe, *, as_json: bool, dry_run: bool, force: bool, verbose: bool) -> None:
    """Run a conversion, or show what it would write."""
    from kept.commands.convert import rehearse, run

    if dry_run:
        refuse_force(force=force)
        rehearsed = rehearse(asked, ProgressBars())
        out_json(display.rehearsal_table(rehearsed)) if as_json else display.rehearsal(rehearsed)
        return
    with replaced(asked.out, asked, force=force):
        done = run(asked, progress=ProgressBars())
    out_json(done.record) if as_json else display.conversion(done, verbose=verbose)


def recipe_of(file: str | None, **options: Any) -> Recipe:
    """Return the recipe of a file and options. Raises UsageError if an argument is missing."""
    values = given(options)
    if file is not None:
        return load_recipe(file, **values)
    for key in ("source", "out"):
        if key not in values:
            raise click.UsageError(f"Missing argument '{key.upper()}' (or --recipe).")
    return recipe_from({}, **values)
