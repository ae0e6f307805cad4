"""Open a checkpoint directory: its config, its weight files and a lazy tensor for each entry. Reads headers only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.file_access import check_companions
from kept.checkpoint.file_names import COPIED, SETTINGS
from kept.checkpoint.json_file import read_json
from kept.checkpoint.licences import no_licences
from kept.checkpoint.pickled import read_pickles
from kept.checkpoint.safetensors_header import read_header
from kept.checkpoint.weights import find_weights, left_out
from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from kept.ir.tensors import Lazy

COMPANIONS = ("config.json", "README.md", "kept.json", *COPIED, *SETTINGS)
"""Files besides the weights that are read by name."""


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: its directory, config, tensors by name, and weight files.

    `left_out` are the names of files that look like weights or licences and are not used. `adapter` is the directory
    of the LoRA adapter that is merged into the tensors. `quantised` describes how the files store weights that are
    dequantised while they are read, and `notes` what else the user should know, one line each.
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Lazy]
    files: tuple[Path, ...]
    left_out: tuple[str, ...] = ()
    adapter: Path | None = None
    quantised: str = ""
    notes: tuple[str, ...] = ()


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a directory in the Hugging Face layout.

    Raises CheckpointError naming the file that is missing, damaged or not safe to open.
    """
    directory = Path(path)
    if not os.path.isdir(directory):  # noqa: PTH112 - Path.is_dir raises for a long name
        raise CheckpointError(f"{directory}: is not a directory; give a checkpoint's path or a hub id (org/name)")
    check_companions(directory, COMPANIONS)
    config = read_json(directory / "config.json")
    weights = find_weights(directory, config)
    tensors = dict(stored_once(weights.files))
    beside = {*left_out(directory, weights), *no_licences(directory)}
    return Checkpoint(directory, config, tensors, weights.files, tuple(sorted(beside)))


def tensors_in(files: Sequence[Path]) -> Iterator[tuple[Path, Iterable[tuple[str, Lazy]]]]:
    """Yield each weight file with its tensors. Raises CheckpointError naming the file, at the latest on iteration."""
    if files and files[0].suffix == ".bin":
        yield from read_pickles(files).items()
        return
    yield from ((file, read_header(file)) for file in files)


def stored_once(files: tuple[Path, ...]) -> Iterator[tuple[str, Lazy]]:
    """Yield the tensors of several files. Raises CheckpointError for a tensor that occurs in two of them."""
    seen: dict[str, Path] = {}
    for file, tensors in tensors_in(files):
        for name, tensor in tensors:
            if name in seen:
                raise CheckpointError(f"{name}: stored twice, in {seen[name].name} and {file.name}")
            seen[name] = file
            yield name, tensor
