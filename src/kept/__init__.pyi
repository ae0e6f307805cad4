# The public names and their modules. lazy_loader reads this file, and so do type checkers.

from .commands.cache_teacher import cache_teacher
from .commands.check import check
from .commands.convert import convert, expand, run
from .commands.export_gguf import export_gguf
from .commands.generate import generate
from .commands.heal import heal
from .commands.inspect import inspect
from .commands.plan import plan
from .commands.push import push
from .commands.run_recipe import run_steps
from .commands.shrink import shrink_expanded
from .commands.verify import verify
from .distillation.settings import HealSettings
from .errors import CheckpointError, InputError, KeptError, OutputError, PromiseError, RecipeError, Refusal
from .evaluation.run import evaluate
from .loaded import open_model
from .pages.page import report
from .recipe import Recipe, load_recipe
from .reporting import Reporter
from .tokenizer.merge import merge_tokenizers
from .tokenizer.train import train_tokenizer

__version__: str

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
    "Reporter",
    "cache_teacher",
    "check",
    "convert",
    "evaluate",
    "expand",
    "export_gguf",
    "generate",
    "heal",
    "inspect",
    "load_recipe",
    "merge_tokenizers",
    "open_model",
    "plan",
    "push",
    "report",
    "run",
    "run_steps",
    "shrink_expanded",
    "train_tokenizer",
    "verify",
]
