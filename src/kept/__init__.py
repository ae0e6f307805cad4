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
    from kept.commands.caching import cache_teacher
    from kept.commands.generation import generate
    from kept.commands.healing import heal
    from kept.commands.inspection import inspect
    from kept.commands.pipeline import convert, expand, run
    from kept.commands.planning import plan
    from kept.commands.running import run_steps
    from kept.commands.shrinking import shrink_expanded
    from kept.commands.verifying import verify
    from kept.distillation.settings import Settings
    from kept.evaluation.run import evaluate
    from kept.opened import open_model
    from kept.pages.page import report
    from kept.recipe import Recipe, load_recipe
    from kept.tokenizer.merge import merge_tokenizers
    from kept.tokenizer.train import train_tokenizer

__all__ = [
    "CheckpointError",
    "InputError",
    "KeptError",
    "OutputError",
    "PromiseError",
    "Recipe",
    "RecipeError",
    "Refusal",
    "Settings",
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
    "Settings": "distillation.settings",
    "cache_teacher": "commands.caching",
    "convert": "commands.pipeline",
    "evaluate": "evaluation.run",
    "expand": "commands.pipeline",
    "generate": "commands.generation",
    "heal": "commands.healing",
    "inspect": "commands.inspection",
    "load_recipe": "recipe",
    "merge_tokenizers": "tokenizer.merge",
    "open_model": "opened",
    "plan": "commands.planning",
    "report": "pages.page",
    "run": "commands.pipeline",
    "run_steps": "commands.running",
    "shrink_expanded": "commands.shrinking",
    "train_tokenizer": "tokenizer.train",
    "verify": "commands.verifying",
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
