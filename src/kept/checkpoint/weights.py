"""Which files of a directory are the model: those that transformers loads, in its order, and no others."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from kept.checkpoint.json_file import read_json
from kept.checkpoint.links import check_file
from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

PREFERRED = (SINGLE, INDEX, PICKLE, PICKLE_INDEX)
"""Where transformers looks, in its order: the first that is there is the model."""

NAMED = "transformers_weights"
"""The config key with which a checkpoint names a safetensors file, or an index of them, that goes before all others."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")

FORMATS = (
    "*.safetensors",
    "*.index.json",
    *PICKLES,
    *("*.gguf", "*.ggml", "*.h5", "*.msgpack", "*.npz", "*.onnx", "*.tflite", "*.nemo"),
)
"""Names of files that hold weights, or list files that do."""

MOST_ENTRIES = 10_000
"""Entries of a directory that are looked at."""


@dataclass(frozen=True)
class Weights:
    """The files that hold a model's tensors; `index` lists them, where there is one."""

    files: tuple[Path, ...]
    index: Path | None = None


def find_weights(directory: Path, config: Mapping[str, Any] | None = None) -> Weights:
    """The files that transformers would load as the model.

    Raises CheckpointError where there are none, and for a name that leads out of the directory.
    """
    named = _named(directory, config or {})
    first = directory / (named or _preferred(directory))
    check_file(directory, first.name)
    if not first.name.endswith(".index.json"):
        return Weights((first,))
    return Weights(tuple(_listed(directory, first)), first)


def candidates(directory: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The names under which a model's weights, or an index of them, may be: the first that is there is read."""
    named = _named(directory, config)
    return PREFERRED if named is None else (named,)


def left_out(directory: Path, weights: Weights) -> list[str]:
    """What else a directory holds that looks like weights: names of files, and of directories with such files."""
    own = {weights.index, *weights.files}
    entries = sorted(islice(directory.iterdir(), MOST_ENTRIES))
    return [_shown(entry) for entry in entries if entry not in own and _holds_weights(entry)]


def weight_map(index: Path) -> dict[str, str]:
    """The file of each tensor, as an index has it."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(f"{index}: has no weight_map")
    return found


def listed_names(index: Path) -> list[str]:
    """The names of the files that an index lists, each of a plain file of the index's own format."""
    names = sorted(set(weight_map(index).values()))
    suffix = ".bin" if index.name == PICKLE_INDEX else ".safetensors"
    for name in names:
        if not name or Path(name).name != name or not name.isprintable() or name.startswith("."):
            raise CheckpointError(f"{index}: names {name!r}, which is not a file beside it")
        if not name.endswith(suffix):
            raise CheckpointError(f"{index}: names {name!r}, which is no *{suffix} file; rename it")
    return names


def _named(directory: Path, config: Mapping[str, Any]) -> str | None:
    """The file that the config names; None where it names none."""
    name, where = config.get(NAMED), f"{directory / 'config.json'}: {NAMED}"
    if name is None:
        return None
    if not isinstance(name, str) or not name.endswith((".safetensors", ".safetensors.index.json")):
        raise CheckpointError(f"{where} is {name!r}, which is neither a safetensors file nor an index of them")
    if Path(name).name != name or not name.isprintable():
        raise CheckpointError(f"{where} is {name!r}, which is not a file beside it")
    return name


def _preferred(directory: Path) -> str:
    found = next((name for name in PREFERRED if os.path.lexists(directory / name)), None)
    if found is None:
        raise CheckpointError(f"{directory}: has no {SINGLE}, {PICKLE} or an index of either{_instead(directory)}")
    return found


def _instead(directory: Path) -> str:
    """What a directory without a model has in its place, with the way out."""
    found = left_out(directory, Weights(()))
    if not found:
        return ""
    return f", only {some(found)}, which transformers does not load: fetch the index, or rename a file that is whole"


def _listed(directory: Path, index: Path) -> Iterable[Path]:
    for name in listed_names(index):
        if not os.path.lexists(directory / name):
            raise CheckpointError(f"{directory / name}: missing; the index lists it, fetch it again")
        check_file(directory, name)
        yield directory / name


def _holds_weights(entry: Path) -> bool:
    if entry.is_symlink() or not entry.is_dir():
        return any(fnmatch(entry.name, pattern) for pattern in FORMATS)
    try:
        with os.scandir(entry) as inside:
            return any(fnmatch(one.name, pattern) for one in islice(inside, MOST_ENTRIES) for pattern in FORMATS)
    except OSError:  # what cannot be listed is not read either
        return False


def _shown(entry: Path) -> str:
    return f"{entry.name}/" if entry.is_dir() else entry.name


def some(names: list[str] | tuple[str, ...], most: int = 6) -> str:
    """Names in a sentence, or the first of many and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
