"""Find the weight files of a checkpoint: those that transformers would load, in its order of preference."""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from kept.checkpoint.file_access import MOST_ENTRIES, check_readable, entries
from kept.checkpoint.json_file import read_json
from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

PREFERRED = (SINGLE, INDEX, PICKLE, PICKLE_INDEX)
"""Files that transformers looks for, in its order; the first that exists is the model."""

NAMED = "transformers_weights"
"""The config key that names a safetensors file or index file to load instead of those of `PREFERRED`."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
"""Patterns of files that hold pickles."""

FORMATS = (
    "*.safetensors",
    "*.index.json",
    *PICKLES,
    *("*.gguf", "*.ggml", "*.h5", "*.msgpack", "*.npz", "*.onnx", "*.tflite", "*.nemo"),
)
"""Patterns of files that hold weights, and of index files."""


@dataclass(frozen=True)
class Weights:
    """A model's weight files, and the index file that lists them (None for a single file)."""

    files: tuple[Path, ...]
    index: Path | None = None


def find_weights(directory: Path, config: Mapping[str, Any] | None = None) -> Weights:
    """Return the files that transformers would load as the model.

    Raises CheckpointError if there are none, and for a listed name outside the directory.
    """
    named = _named(directory, config or {})
    first = directory / (named or _preferred(directory))
    check_readable(directory, first.name)
    if not first.name.endswith(".index.json"):
        return Weights((first,))
    return Weights(tuple(_listed(directory, first)), first)


def candidates(directory: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of weight or index files to look for, in order; the first that exists is read."""
    named = _named(directory, config)
    return PREFERRED if named is None else (named,)


def left_out(directory: Path, weights: Weights) -> list[str]:
    """Return the names of other files that look like weights, and of directories that contain such files."""
    own = {weights.index, *weights.files}
    return [_shown(entry) for entry in entries(directory) if entry not in own and _holds_weights(entry)]


def weight_map(index: Path) -> dict[str, str]:
    """Return the weight map of an index file: file names by tensor. Raises CheckpointError if it has none."""
    found = read_json(index).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(f"{index}: has no weight_map")
    return found


def listed_names(index: Path) -> list[str]:
    """Return the file names in an index. Raises CheckpointError for a path or a file of another format."""
    names = sorted(set(weight_map(index).values()))
    suffix = ".bin" if index.name == PICKLE_INDEX else ".safetensors"
    for name in names:
        if not name or Path(name).name != name or not name.isprintable() or name.startswith("."):
            raise CheckpointError(f"{index}: names {name!r}, which is not a file in the same directory")
        if not name.endswith(suffix):
            raise CheckpointError(f"{index}: names {name!r}, which is not a *{suffix} file; rename it")
    return names


def _named(directory: Path, config: Mapping[str, Any]) -> str | None:
    """Return the weight or index file that the config names; None if it names none."""
    name, where = config.get(NAMED), f"{directory / 'config.json'}: {NAMED}"
    if name is None:
        return None
    if not isinstance(name, str) or not name.endswith((".safetensors", ".safetensors.index.json")):
        raise CheckpointError(f"{where} is {name!r}, which is neither a safetensors file nor an index of them")
    if Path(name).name != name or not name.isprintable():
        raise CheckpointError(f"{where} is {name!r}, which is not a file in the same directory")
    return name


def _preferred(directory: Path) -> str:
    found = next((name for name in PREFERRED if os.path.lexists(directory / name)), None)
    if found is None:
        raise CheckpointError(f"{directory}: has no {SINGLE}, {PICKLE} or an index of either{_unused(directory)}")
    return found


def _unused(directory: Path) -> str:
    """Return the end of an error message: the weight files that are present but not loaded, and what to do."""
    found = left_out(directory, Weights(()))
    if not found:
        return ""
    return f", only {some(found)}, which transformers does not load: fetch the index, or rename a file that is whole"


def _listed(directory: Path, index: Path) -> Iterable[Path]:
    for name in listed_names(index):
        if not os.path.lexists(directory / name):
            raise CheckpointError(f"{directory / name}: missing; the index lists it, fetch it again")
        check_readable(directory, name)
        yield directory / name


def _holds_weights(entry: Path) -> bool:
    if entry.is_symlink() or not entry.is_dir():
        return any(fnmatch(entry.name, pattern) for pattern in FORMATS)
    try:
        with os.scandir(entry) as inside:
            return any(fnmatch(one.name, pattern) for one in islice(inside, MOST_ENTRIES) for pattern in FORMATS)
    except OSError:  # a directory that cannot be listed is not read either
        return False


def _shown(entry: Path) -> str:
    return f"{entry.name}/" if entry.is_dir() else entry.name


def some(names: list[str] | tuple[str, ...], most: int = 6) -> str:
    """Return names joined by commas: at most `most`, then the number of those left out."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
