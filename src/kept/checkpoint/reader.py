"""Opening a checkpoint directory: config, shards, and a lazy tensor for each stored one. Reads headers only."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.writer import INDEX
from kept.errors import CheckpointError
from kept.ir.tensors import DTYPE_BYTES, Stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LONGEST_HEADER = 100_000_000
"""Bytes; the limit of the safetensors format."""

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Checkpoint:
    """A directory of safetensors with a config."""

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, Stored]

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files, in order of name."""
        return tuple(sorted({tensor.file for tensor in self.tensors.values()}))


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a directory in the Hugging Face layout.

    Raises CheckpointError naming the file that is missing, damaged or not safe to open.
    """
    directory = Path(path)
    if not directory.is_dir():
        raise CheckpointError(
            f"{directory}: is no directory; give a downloaded checkpoint's path or a hub id (org/name)"
        )
    config = read_json(directory / "config.json")
    tensors: dict[str, Stored] = {}
    for file in weight_files(directory):
        try:
            header = list(read_header(file))
        except OSError as error:
            raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
        for name, tensor in header:
            if name in tensors:
                raise CheckpointError(f"{name}: stored twice, in {tensors[name].file.name} and {file.name}")
            tensors[name] = tensor
    return Checkpoint(directory, config, tensors)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint."""
    if file.is_fifo():
        raise CheckpointError(f"{file}: is a pipe, not a file")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; a checkpoint directory needs it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({_first_line(error)})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: holds no JSON object")
    return value


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that the index names, or those that are there."""
    names = weight_names(directory)
    if names is not None:
        return [_beside(directory, name) for name in names]
    files = sorted(file for file in directory.glob("*.safetensors") if not file.is_fifo())
    if files:
        return files
    pickles = sorted(file.name for pattern in PICKLES for file in directory.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{directory / pickles[0]}: a pickle, which can run code when opened and is never opened here; "
            "load it in a sandbox with the library that made it and save it with safe_serialization=True"
        )
    raise CheckpointError(f"{directory}: has no *.safetensors file")


def weight_names(directory: Path) -> list[str] | None:
    """The names of weight files that a directory's index lists; None where there is no index."""
    index = directory / INDEX
    if not index.exists():
        return None
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise CheckpointError(f"{index}: has no weight_map")
    return sorted(set(weight_map.values()))


def _beside(directory: Path, name: str) -> Path:
    file = directory / name
    if Path(name).name != name:
        raise CheckpointError(f"{directory / INDEX}: names {name!r}, which is not a file beside it")
    if not file.is_file():
        raise CheckpointError(f"{file}: missing; the index lists it, fetch it again")
    return file


def read_header(file: Path) -> Iterator[tuple[str, Stored]]:
    """The tensors of a safetensors file, with dtype, shape and place checked against its size."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        start = opened.read(8)
        if len(start) < 8:
            raise CheckpointError(f"{file}: too short to be a safetensors file; fetch it again")
        (length,) = struct.unpack("<Q", start)
        if length > min(LONGEST_HEADER, size - 8):
            raise CheckpointError(f"{file}: its header claims {length} bytes of a {size}-byte file; fetch it again")
        raw = opened.read(length)
    try:
        header = json.loads(raw)
    except (ValueError, RecursionError):
        raise CheckpointError(f"{file}: its header is not JSON; fetch it again") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: its header is not a JSON object; fetch it again")
    header.pop("__metadata__", None)
    data = 8 + length
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: _begin(item[1])):
        tensor = _tensor(file, name, entry, data)
        if tensor.offset != data + end:
            raise CheckpointError(f"{file}: {name} overlaps another tensor or leaves a gap; fetch the file again")
        end += tensor.nbytes
        yield name, tensor
    if data + end != size:
        what = "is cut short" if data + end > size else "has bytes after its last tensor"
        raise CheckpointError(f"{file}: {what} ({size} bytes, its header says {data + end}); fetch it again")


def _begin(entry: object) -> int:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    return offsets[0] if isinstance(offsets, list) and offsets and isinstance(offsets[0], int) else -1


def _tensor(file: Path, name: str, entry: object, data: int) -> Stored:
    if not isinstance(entry, dict):
        raise CheckpointError(f"{file}: {name} has no proper entry in the header")
    dtype, shape, offsets = entry.get("dtype"), _counts(entry.get("shape")), _counts(entry.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        known = ", ".join(DTYPE_BYTES)
        raise CheckpointError(f"{file}: {name} has dtype {dtype!r}; weights may be {known}")
    if shape is None or offsets is None or len(offsets) != 2:
        raise CheckpointError(f"{file}: {name} has a malformed shape or offsets")
    begin, stop = offsets
    if stop - begin != prod(shape) * DTYPE_BYTES[dtype]:
        raise CheckpointError(
            f"{file}: {name} has {stop - begin} bytes, its shape {shape} and dtype {dtype} need others"
        )
    return Stored(tuple(shape), dtype, file, data + begin)


def _counts(values: object) -> list[int] | None:
    """A list of integers that are not negative; None for anything else."""
    whole = isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)
    return values if whole else None  # type: ignore[return-value]


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
