"""Change the architecture of a pretrained decoder language model and keep what it knows.

The functions say what the command line says: `inspect`, `plan`, `convert`, `verify`, `generate`. None of them imports
torch before it needs it.
"""

from kept.errors import (
    CheckpointError,
    InputError,
    KeptError,
    OutputError,
    PromiseError,
    RecipeError,
    Refusal,
)
from kept.generation import generate
from kept.inspection import inspect
from kept.opened import open_model
from kept.pipeline import convert, plan, run, verify
from kept.recipe import Recipe, load_recipe

__all__ = [
    "CheckpointError",
    "InputError",
    "KeptError",
    "OutputError",
    "PromiseError",
    "Recipe",
    "RecipeError",
    "Refusal",
    "convert",
    "generate",
    "inspect",
    "load_recipe",
    "open_model",
    "plan",
    "run",
    "verify",
]
