"""Change the architecture of a pretrained decoder language model and keep what it knows.

The functions say what the command line says: `inspect`, `plan`, `convert`, `expand`, `heal`, `shrink_expanded`,
`run_steps`, `cache_teacher`, `verify`, `evaluate`, `generate`, `report`; `train_tokenizer` and `merge_tokenizers` are
`kept tokenizer`. Each is imported when it is first asked for, and none of them imports torch before it needs it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from kept.errors import (
    CheckpointError,
    InputError,
    KeptError,
    OutputError,
    PromiseError,
    RecipeError,
    Refusal,
)

if TYPE_CHECKING:
    from kept.commands.cache_teacher import cache_teacher
    from kept.commands.convert import convert, expand, run
    from kept.commands.generate import generate
    from kept.commands.heal import heal
    from kept.commands.inspect import inspect
    from kept.commands.plan import plan
    from kept.commands.run_recipe import run_steps
    from kept.commands.shrink import shrink_expanded
    from kept.commands.verify import verify
    from kept.distillation.settings import HealSettings
    from kept.evaluation.run import evaluate
    from kept.loaded import open_model
    from kept.pages.page import report
    from kept.recipe import Recipe, load_recipe
    from kept.tokenizer.merge import merge_tokenizers
    from kept.tokenizer.train import train_tokenizer

__all__ = [
    "CheckpointError",
    "HealSettings",
    "InputError",
    "KeptError",
    "OutputError",
    "PromiseError",
    "Recipe",
    "RecipeError",
    "Refusal",
    "cache_teacher",
    "convert",
    "evaluate",
    "expand",
    "generate",
    "heal",
    "inspect",
    "load_recipe",
    "merge_tokenizers",
    "open_model",
    "plan",
    "report",
    "run",
    "run_steps",
    "shrink_expanded",
    "train_tokenizer",
    "verify",
]

_HOMES = {
    "Recipe": "recipe",
    "HealSettings": "distillation.settings",
    "cache_teacher": "commands.cache_teacher",
    "convert": "commands.convert",
    "evaluate": "evaluation.run",
    "expand": "commands.convert",
    "generate": "commands.generate",
    "heal": "commands.heal",
    "inspect": "commands.inspect",
    "load_recipe": "recipe",
    "merge_tokenizers": "tokenizer.merge",
    "open_model": "loaded",
    "plan": "commands.plan",
    "report": "pages.page",
    "run": "commands.convert",
    "run_steps": "commands.run_recipe",
    "shrink_expanded": "commands.shrink",
    "train_tokenizer": "tokenizer.train",
    "verify": "commands.verify",
}
"""Where what is imported late comes from."""


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module("importlib.metadata").version("kept")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"kept.{_HOMES[name]}"), name)
