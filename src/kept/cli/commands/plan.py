"""`kept plan`."""

from __future__ import annotations

from typing import Any

import click

from kept.cli.commands.convert import CHOICES, RECIPE, recipe_of
from kept.cli.display.console import out_json
from kept.cli.options import FILE, JSON, SettingsCommand, is_recipe, settings
from kept.cli.recipe_errors import recipe_in_errors
from kept.recipe import Recipe


@click.command("plan", cls=SettingsCommand)
@click.argument("source", metavar="SOURCE|RECIPE", type=FILE, required=False)
@settings(Recipe, *CHOICES)
@RECIPE
@JSON
@click.option(
    "--cluster",
    metavar="CLUSTER",
    help="Devices of a healing run: h100, 8xh100, a TOML file, or here (this machine, measured). [default: here]",
)
@click.option("--price", type=float, metavar="PRICE", help="Price per device-hour.")
def command(
    source: str | None, recipe: str | None, cluster: str | None, price: float | None, *, as_json: bool, **options: Any
) -> None:
    """Show the passes of a conversion, or the memory and time of a healing run.

    With a SOURCE: each pass with its promise and its cost. With a RECIPE, a TOML file for kept heal: memory per device
    by purpose, settings that need less memory, tokens per second, hours and price. Reads no weights; the models of a
    RECIPE may be directories with only a config.json.

    \b
    kept plan path/to/orion
    kept plan path/to/orion --norm opm --json
    kept plan recipe.toml --cluster 8xh100 --price 2.5
    """
    if source is not None and is_recipe(source):
        if any(value is not None for value in (recipe, *options.values())):
            raise click.UsageError(f"{source} is a recipe for kept heal; it takes only --cluster, --price and --json.")
        _forecast(source, cluster, price, as_json=as_json)
        return
    if cluster is not None or price is not None:
        raise click.UsageError("--cluster and --price need a recipe for kept heal: kept plan RECIPE.toml")
    _plan(recipe_of(recipe, source=source, out="not written", **options), as_json=as_json)


def _plan(asked: Recipe, *, as_json: bool) -> None:
    from kept.cli.display.plan import plan, plan_table
    from kept.commands.plan import make_plan, target_family
    from kept.loaded import open_model

    opened = open_model(asked.source, asked.base, adapter=asked.adapter, tie=asked.tie)
    found = make_plan(opened, asked, unmeasured=True)
    out_json(plan_table(found)) if as_json else plan(opened, found, target_family(opened, asked).name)


def _forecast(file: str, where: str | None, price: float | None, *, as_json: bool) -> None:
    from kept.cli.display import forecast as display
    from kept.commands.forecast import forecast
    from kept.distillation.cluster import HERE, cluster
    from kept.distillation.settings import HealSettings

    asked = HealSettings.load(file)
    with recipe_in_errors(file, student=asked.student, teacher=asked.teacher):
        found = forecast(asked, cluster(where or HERE, price=price))
    out_json(display.forecast_table(found)) if as_json else display.forecast(found)
