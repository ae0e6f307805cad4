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
    from kept.caching import cache_teacher
    from kept.distillation.settings import Settings
    from kept.evaluation.run import evaluate
    from kept.generation import generate
    from kept.healing import heal
    from kept.inspection import inspect
    from kept.opened import open_model
    from kept.pages.page import report
    from kept.pipeline import convert, expand, run
    from kept.planning import plan
    from kept.recipe import Recipe, load_recipe
    from kept.running import run_steps
    from kept.shrinking import shrink_expanded
    from kept.tokenizer.merge import merge_tokenizers
    from kept.tokenizer.train import train_tokenizer
    from kept.verifying import verify

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
    "cache_teacher": "caching",
    "convert": "pipeline",
    "evaluate": "evaluation.run",
    "expand": "pipeline",
    "generate": "generation",
    "heal": "healing",
    "inspect": "inspection",
    "load_recipe": "recipe",
    "merge_tokenizers": "tokenizer.merge",
    "open_model": "opened",
    "plan": "planning",
    "report": "pages.page",
    "run": "pipeline",
    "run_steps": "running",
    "shrink_expanded": "shrinking",
    "train_tokenizer": "tokenizer.train",
    "verify": "verifying",
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
