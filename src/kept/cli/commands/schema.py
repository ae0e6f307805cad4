"""`kept schema`."""

from __future__ import annotations

import importlib

import click

from kept.cli.display.console import out_json
from kept.settings_model import json_schema

SCHEMAS = {
    "convert": ("kept.recipe", "Recipe"),
    "heal": ("kept.distillation.settings", "HealSettings"),
    "steps": ("kept.commands.recipe_steps", "StepsFile"),
    "eval": ("kept.evaluation.settings", "EvalSettings"),
    "cluster": ("kept.distillation.cluster", "ClusterFile"),
}
"""Module and class of the settings in each kind of file."""


@click.command("schema")
@click.argument("kind", type=click.Choice([*SCHEMAS]))
def command(kind: str) -> None:
    """Print the JSON schema of a recipe, for completion in editors.

    convert: recipes of kept convert. heal: recipes of kept heal. steps: recipes of kept run. eval: the options of kept
    eval. cluster: files of kept plan --cluster. Editors with a TOML language server, such as Even Better TOML, read
    the schema that the first line of a recipe names:

    \b
    kept schema heal > heal.schema.json
    echo '#:schema ./heal.schema.json' > recipe.toml
    """
    module, name = SCHEMAS[kind]
    schema = json_schema(getattr(importlib.import_module(module), name))
    out_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})
