"""Opening a checkpoint directory: config, shards, and a lazy tensor for each stored one. Reads headers only."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import struct
from collections import Counter
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

LARGEST_COUNT = 1 << 63
"""No size or offset reaches it: the product of a shape stays cheap."""

MOST_AXES = 64
"""As in torch."""

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that may be half a character."""

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
        raise CheckpointError(f"{directory}: is no directory; give a checkpoint's path or a hub id (org/name)")
    if not (directory / "config.json").exists() and not stored_files(directory):
        _refuse_pickles(directory)
    config = read_json(directory / "config.json")
    tensors: dict[str, Stored] = {}
    for file in weight_files(directory):
        for name, tensor in read_header(file):
            if name in tensors:
                raise CheckpointError(f"{name}: stored twice, in {tensors[name].file.name} and {file.name}")
            tensors[name] = tensor
    return Checkpoint(directory, config, tensors)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file of a checkpoint."""
    try:
        raw = _whole(file)
        value = parse(raw)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; a checkpoint directory needs it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({_why(error)})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: holds no JSON object")
    return value


def _whole(file: Path) -> bytes:
    """The bytes of a small file. Raises OSError, and ValueError for one that is not small."""
    size = _regular(file)
    if size > LONGEST_HEADER:
        raise ValueError(f"it has {size} bytes, more than {LONGEST_HEADER}")
    return file.read_bytes()


def _regular(file: Path) -> int:
    """The size of a file. Raises OSError for a pipe or a device, which may never end."""
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
    return status.st_size


def parse(raw: bytes) -> Any:  # noqa: ANN401 - JSON
    """JSON as strict as it is safe: UTF-8, no key twice, no half of a surrogate pair, which no file could hold again.

    Raises ValueError or RecursionError.
    """
    value = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
    if SURROGATE.search(raw) is not None:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text in it holds half of a surrogate pair") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Readers differ on which of two equal keys counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return found


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files that the index names, or those that are there."""
    if os.path.lexists(directory / INDEX):
        names = sorted(set(weight_map(directory).values()))
        files = [_beside(directory, name) for name in names]
        odd = next((name for name in names if not name.endswith(".safetensors")), None)
        if odd is not None:
            raise CheckpointError(f"{directory / INDEX}: names {odd!r}, which is no *.safetensors file; rename it")
        return files
    files = stored_files(directory)
    if files:
        return files
    _refuse_pickles(directory)
    raise CheckpointError(f"{directory}: has no *.safetensors file")


def _refuse_pickles(directory: Path) -> None:
    pickles = sorted(file.name for pattern in PICKLES for file in directory.glob(pattern))
    if pickles:
        raise CheckpointError(
            f"{directory / pickles[0]}: a pickle, which can run code when opened and is never opened here; "
            "load it in a sandbox with the library that made it and save it with safe_serialization=True"
        )


def weight_map(directory: Path) -> dict[str, str]:
    """The file of each tensor, as the index has it."""
    found = read_json(directory / INDEX).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise CheckpointError(f"{directory / INDEX}: has no weight_map")
    return found


def stored_files(directory: Path) -> list[Path]:
    """The safetensors files that are there, links to nothing among them."""
    files = sorted(file for file in directory.glob("*.safetensors") if file.is_file() or file.is_symlink())
    odd = next((file for file in files if not file.name.isprintable()), None)
    if odd is not None:
        raise CheckpointError(f"{odd}: its name is not printable UTF-8 text; rename it")
    return files


def _beside(directory: Path, name: str) -> Path:
    file = directory / name
    if Path(name).name != name or not name.isprintable() or name.startswith("."):
        raise CheckpointError(f"{directory / INDEX}: names {name!r}, which is not a file beside it")
    if not os.path.isfile(file):  # noqa: PTH113 - a name of any length is no error
        raise CheckpointError(f"{file}: missing; the index lists it, fetch it again")
    return file


def read_header(file: Path) -> Iterator[tuple[str, Stored]]:
    """The tensors of a safetensors file, with dtype, shape and place checked against its size."""
    try:
        raw, size = _raw_header(file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    try:
        header = parse(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: its header is not JSON ({_why(error)}); fetch it again") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: its header is not a JSON object; fetch it again")
    header.pop("__metadata__", None)
    data = 8 + len(raw)
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


def _raw_header(file: Path) -> tuple[bytes, int]:
    """The header's JSON, and the size of the file."""
    size = _regular(file)
    with file.open("rb") as opened:
        start = opened.read(8)
        if len(start) < 8:
            raise CheckpointError(f"{file}: too short to be a safetensors file; fetch it again")
        (length,) = struct.unpack("<Q", start)
        if length > min(LONGEST_HEADER, size - 8):
            raise CheckpointError(f"{file}: its header claims {length} bytes of a {size}-byte file; fetch it again")
        return opened.read(length), size


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
    if shape is None or len(shape) > MOST_AXES or offsets is None or len(offsets) != 2:
        raise CheckpointError(f"{file}: {name} has a malformed shape or offsets")
    begin, stop = offsets
    if stop - begin != prod(shape) * DTYPE_BYTES[dtype]:
        raise CheckpointError(
            f"{file}: {name} has {stop - begin} bytes, its shape {shape} and dtype {dtype} need others"
        )
    return Stored(tuple(shape), dtype, file, data + begin)


def _counts(values: object) -> list[int] | None:
    """A list of integers that are not negative and that 64 bits hold; None for anything else."""
    whole = isinstance(values, list) and all(type(value) is int and 0 <= value < LARGEST_COUNT for value in values)
    return values if whole else None  # type: ignore[return-value]


def _why(error: Exception) -> str:
    """The reason in a few words: of a file system's error without the path."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__
