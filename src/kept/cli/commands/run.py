"""`kept run`."""

from __future__ import annotations

from typing import Any

import click

from kept.cli.display import recipe_run
from kept.cli.display.console import out_json
from kept.cli.options import DRY_RUN, FILE, JSON, SettingsCommand, given, settings
from kept.cli.replaced import FORCE, refuse_force, replaced
from kept.commands.recipe_steps import StepsFile, load_steps
from kept.progress_bars import ProgressBars


@click.command("run", cls=SettingsCommand)
@click.argument("recipe", type=FILE)
@settings(StepsFile, "out", "keep_intermediate")
@DRY_RUN
@FORCE
@JSON
def command(recipe: str, *, as_json: bool, dry_run: bool, force: bool, **options: Any) -> None:
    """Run the steps of a recipe, one after another.

    RECIPE is a TOML file. Each step is one of the commands expand, convert, heal, shrink-expanded, verify, eval and
    report, with its options as keys, and continues from the model that the step before it wrote. Everything is checked
    before the first step begins. OUT gets its name when all steps are finished.

    An interrupted run continues if the command is run again. If the settings or the inputs of a step have changed, it
    and the steps after it are run again.

    \b
    kept run recipes/expand-and-teach.toml --dry-run
    kept run recipes/expand-and-teach.toml
    """
    from kept.cli.display.heal_progress import HealProgress
    from kept.commands.preflight import check
    from kept.commands.run_recipe import run_all

    asked = load_steps(recipe, **given(options))
    if dry_run:
        refuse_force(force=force)
        check(asked)
        out_json(recipe_run.steps_table(asked)) if as_json else recipe_run.steps(asked)
        return
    with replaced(asked.out, asked, force=force), HealProgress() as watch:
        done = run_all(asked, ProgressBars(), recipe_run.RecipeDisplay(asked, data=as_json), watch)
    out_json(recipe_run.ran_table(asked, done)) if as_json else recipe_run.ran(done)
