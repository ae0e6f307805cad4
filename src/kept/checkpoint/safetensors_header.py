"""Read the header of a safetensors file and check it against the file's size."""

from __future__ import annotations

import os
import struct
from math import prod
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import LARGEST_JSON, parse
from kept.checkpoint.small_files import regular
from kept.errors import CheckpointError, reason
from kept.ir.tensors import STORED_BYTES, Stored

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LARGEST_COUNT = 1 << 63
"""Exclusive upper bound on sizes and offsets; it keeps the product of a shape small."""

MOST_AXES = 64
"""The limit on dimensions of a torch tensor."""


def read_header(file: Path) -> Iterator[tuple[str, Stored]]:
    """Yield the name and lazy tensor of each entry, in order of offset.

    Raises CheckpointError for a header whose entries are malformed, overlap, leave gaps or do not fill the file.
    """
    header, data, size = _parsed(file)
    header.pop("__metadata__", None)
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


def stated_format(file: Path) -> object:
    """Return the `format` in the metadata of a safetensors file; None if there is none.

    transformers before 4.46 refuses a file without it, and treats any value but "pt" and "mlx" as another framework's.
    """
    return stated_metadata(file).get("format")


def stated_metadata(file: Path) -> dict[str, Any]:
    """Return the metadata of a safetensors file; empty if there is none."""
    metadata = _parsed(file)[0].get("__metadata__")
    return metadata if isinstance(metadata, dict) else {}


def _parsed(file: Path) -> tuple[dict[str, Any], int, int]:
    """Return the parsed header, the offset in bytes of the tensor data, and the size of the file in bytes."""
    try:
        raw, size = _raw(file)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    try:
        header = parse(raw)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: its header cannot be read as JSON ({reason(error)}); fetch it again") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: its header is not a JSON object; fetch it again")
    return header, 8 + len(raw), size


def _raw(file: Path) -> tuple[bytes, int]:
    """Return the header's JSON bytes and the size of the file in bytes."""
    with open(file, "rb", opener=regular) as opened:
        size = os.fstat(opened.fileno()).st_size
        start = opened.read(8)
        if len(start) < 8:
            raise CheckpointError(f"{file}: too short to be a safetensors file; fetch it again")
        (length,) = struct.unpack("<Q", start)
        if length > min(LARGEST_JSON, size - 8):
            raise CheckpointError(f"{file}: its header claims {length} bytes of a {size}-byte file; fetch it again")
        return opened.read(length), size


def _begin(entry: object) -> int:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    return offsets[0] if isinstance(offsets, list) and offsets and isinstance(offsets[0], int) else -1


def _tensor(file: Path, name: str, entry: object, data: int) -> Stored:
    if not isinstance(entry, dict):
        raise CheckpointError(f"{file}: the header entry of {name} is not an object; fetch the file again")
    dtype, shape, offsets = entry.get("dtype"), counts(entry.get("shape")), counts(entry.get("data_offsets"))
    if not isinstance(dtype, str) or dtype not in STORED_BYTES:
        known = ", ".join(STORED_BYTES)
        raise CheckpointError(f"{file}: {name} has dtype {dtype!r}; tensors may be {known}")
    if shape is None or len(shape) > MOST_AXES or offsets is None or len(offsets) != 2:
        raise CheckpointError(f"{file}: {name} has a malformed shape or offsets")
    begin, stop = offsets
    if stop - begin != prod(shape) * STORED_BYTES[dtype]:
        raise CheckpointError(
            f"{file}: {name} has {stop - begin} bytes, which does not match shape {shape} and dtype {dtype}"
        )
    return Stored(tuple(shape), dtype, file, data + begin)


def counts(values: object) -> list[int] | None:
    """Return `values` if it is a list of integers from 0 to 2^63 - 1; None otherwise."""
    whole = isinstance(values, list) and all(type(value) is int and 0 <= value < LARGEST_COUNT for value in values)
    return values if whole else None  # type: ignore[return-value] # `all` does not narrow the type
