"""Find the config keys that a class of transformers reads and those that kept's table for it reads.

`python tests/support/stock_keys.py [FAMILY...]` prints the keys that transformers reads and the table does not.
Two methods are combined: a tiny model is loaded and run while attribute reads of its config are recorded, and the
sources are searched for keys that are read under a condition only.
"""

from __future__ import annotations

import ast
import sys
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig

from kept.errors import KeptError
from kept.families import FAMILIES
from kept.families.config import Config
from support.models import write_checkpoint
from support.tiny import TINY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.families.table import Family

ROOT = Path(transformers.__file__).parent

SHARED = (
    "activations.py",
    "cache_utils.py",
    "integrations/eager_paged.py",
    "integrations/flash_attention.py",
    "integrations/flex_attention.py",
    "integrations/sdpa_attention.py",
    "masking_utils.py",
    "modeling_flash_attention_utils.py",
    "modeling_layers.py",
    "modeling_rope_utils.py",
    "modeling_utils.py",
)
"""Sources that every model uses."""

SCALED: tuple[dict[str, Any], ...] = (
    {},
    {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    {"new_decoder_architecture": False},
    {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 64}},
    {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 2.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
    {
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1.0] * 8,
            "long_factor": [2.0] * 8,
            "original_max_position_embeddings": 64,
        }
    },
)
"""Config changes with which a table reads keys that it does not read from a plain config."""


def stock(name: str) -> set[str]:
    """Return the keys that a family's stock class reads and that a config.json can hold."""
    config = transformers.CONFIG_MAPPING[name]
    found = _run(name) | _searched(name) | {*getattr(config, "attribute_map", {})}
    methods = {key for key in found if callable(getattr(config, key, None))}
    return {key for key in found - methods if not key.startswith("_")}


def ours(family: Family) -> set[str]:
    """Return the keys that a family's table reads, including those checked for every family."""
    with _noting(Config, "get") as first, _noting(Config, "states") as second:
        for more in SCALED:
            with suppress(KeptError):
                family.read_config({**TINY[family.name], **more})
    return first | second | {*family.aliases, "model_type"}


def stock_rope() -> set[str]:
    """Return the keys of the RoPE section that transformers reads."""
    tree = ast.parse((ROOT / "modeling_rope_utils.py").read_text(encoding="utf-8"))
    return {key for node in ast.walk(tree) for key in _of_mapping(node, "rope_param")}


def _of_mapping(node: ast.AST, called: str) -> Iterator[str]:
    """Yield the key if a node reads one from a mapping whose name contains `called`."""
    match node:
        case ast.Subscript(value=value, slice=ast.Constant(value=str(key))) if called in ast.unparse(value):
            yield key
        case ast.Call(func=ast.Attribute(value=value, attr="get" | "pop"), args=[ast.Constant(value=str(key)), *_]) if (
            called in ast.unparse(value)
        ):
            yield key
        case _:
            pass


@cache
def _run(name: str) -> set[str]:
    """Return the attributes read from a config while its model is loaded and generates."""
    with TemporaryDirectory() as folder:
        directory = write_checkpoint(Path(folder), name)
        with _noting(PretrainedConfig, "__getattribute__") as found:
            for attention in (None, "eager"):
                model = AutoModelForCausalLM.from_pretrained(directory, attn_implementation=attention).eval()
                with torch.no_grad():
                    model.generate(torch.arange(3, 12)[None], max_new_tokens=3, do_sample=False)
    return found


def _searched(name: str) -> set[str]:
    """Return the attributes that the sources of a model and the shared sources read from a config."""
    own = sorted((ROOT / "models" / name).glob("modeling_*.py"))
    stated = sorted((ROOT / "models" / name).glob("configuration_*.py"))
    return set().union(*map(_asked, own), *(_asked(ROOT / file) for file in SHARED), *map(_stated, stated))


@cache
def _asked(file: Path) -> set[str]:
    """Return each KEY of `config.KEY` and `getattr(config, "KEY")` in a source."""
    if not file.is_file():
        return set()
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Attribute(value=value, attr=key) if ast.unparse(value).endswith("config"):
                found.add(key)
            case ast.Call(func=ast.Name(id="getattr" | "hasattr"), args=[value, ast.Constant(value=str(key)), *_]) if (
                ast.unparse(value).endswith("config")
            ):
                found.add(key)
            case _:
                pass
    return found


@cache
def _stated(file: Path) -> set[str]:
    """Return the keys that a configuration source declares or takes from its keyword arguments."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            found.update(argument.arg for argument in node.args.args if argument.arg != "self")
        found.update(_of_mapping(node, "kwargs"))
    return found


@contextmanager
def _noting(kind: type, method: str) -> Iterator[set[str]]:
    """Record the first argument of each call of a method within the context."""
    plain, found = getattr(kind, method), set()

    def noting(self: object, key: str, *rest: object) -> object:
        found.add(key)
        return plain(self, key, *rest)

    setattr(kind, method, noting)
    try:
        yield found
    finally:
        setattr(kind, method, plain)


if __name__ == "__main__":
    transformers.utils.logging.disable_progress_bar()
    for family in sys.argv[1:] or [name for name, one in FAMILIES.items() if one.stock]:
        print(f"{family}: {' '.join(sorted(stock(family) - ours(FAMILIES[family])))}")  # noqa: T201 - a script
