"""Lazy tensors of pickled `.bin` files. A fenced process finds their offsets, which are checked against the file."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any

from kept.checkpoint.safetensors_header import MOST_AXES, counts
from kept.checkpoint.small_files import regular
from kept.errors import CheckpointError
from kept.fence import FenceError, Limits, Worker
from kept.ir.tensors import STORED_BYTES, Computed, Lazy, Stored

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import torch

SECONDS = 120.0
"""Time limit for one file, including the import of torch in the child."""

MEMORY = 2 << 30
"""Memory limit in bytes, on top of the file's size: the mapped file counts as memory of the process."""

ARCHIVE = b"PK\x03\x04"
"""First bytes of a zip archive."""

Tensors = tuple[tuple[str, Lazy], ...]


def read_pickles(files: Sequence[Path]) -> dict[Path, Tensors]:
    """Return the names and lazy tensors of each file. Raises CheckpointError naming the file."""
    found = _read(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))
    return dict(zip(files, found, strict=True))


@lru_cache(maxsize=8)  # a command opens a model several times, and each child imports torch, which takes seconds
def _read(files: tuple[tuple[Path, int, int], ...]) -> tuple[Tensors, ...]:
    largest = max(size for _, size, _ in files)
    worker = Worker("kept.checkpoint.pickle_worker:Unpickler", limits=Limits(SECONDS, MEMORY + largest))
    try:
        return tuple(_checked(file, size, _ask(worker, file)) for file, size, _ in files)
    finally:
        worker.close()


def _ask(worker: Worker, file: Path) -> Any:  # noqa: ANN401 - JSON
    if not _is_archive(file):  # the child is not needed to find that out
        raise CheckpointError(
            f"{file}: is not a zip archive; if torch before 1.6 wrote it, load it in a sandbox and torch.save it again"
        )
    try:
        return worker.call("tensors", str(file.absolute())).value
    except FenceError as error:
        raise CheckpointError(f"{file}: cannot be read as weights ({error}); nothing in it was run") from None
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None


def _is_archive(file: Path) -> bool:
    """Return whether a file begins as a zip archive does. True if it cannot be read: the child reports that."""
    with suppress(OSError), open(file, "rb", opener=regular) as opened:
        return opened.read(len(ARCHIVE)) == ARCHIVE
    return True


def _checked(file: Path, size: int, told: object) -> Tensors:
    """Return the child's tensors as lazy ones. Raises CheckpointError for one that does not lie within the file."""
    rows = told if isinstance(told, list) else [told]
    return tuple(_tensor(file, size, row) for row in rows)


def _tensor(file: Path, size: int, row: object) -> tuple[str, Lazy]:
    match row:
        case [str(name), str(dtype), list() as shape, list() as stride, int(offset)] if (
            dtype in STORED_BYTES and counts(shape) and counts([*stride, offset]) and len(shape) == len(stride)
        ):
            pass
        case [str(name), str(dtype), [], [], int(offset)] if dtype in STORED_BYTES:
            shape, stride = [], []
        case _:
            raise CheckpointError(f"{file}: has a tensor with malformed shape or offset; fetch it again")
    if len(shape) > MOST_AXES:
        raise CheckpointError(f"{file}: {name} has {len(shape)} axes")
    span = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if prod(shape) else 0
    if not 0 <= offset <= offset + span * STORED_BYTES[dtype] <= size:
        raise CheckpointError(f"{file}: {name} lies outside of the file; fetch it again")
    return name, _lazy(file, name, dtype, (tuple(shape), tuple(stride)), offset, span)


def _lazy(
    file: Path, name: str, dtype: str, layout: tuple[tuple[int, ...], tuple[int, ...]], offset: int, span: int
) -> Lazy:
    """Return a `Stored` tensor if the elements are contiguous; else a strided view of the bytes they span."""
    shape, stride = layout
    if prod(shape) > span:
        raise CheckpointError(f"{file}: {name} is a view with repeated elements; save its state dict again")
    if _is_contiguous(shape, stride):
        return Stored(shape, dtype, file, offset)
    return Computed(shape, dtype, View(shape, stride), (Stored((span,), dtype, file, offset),))


def _is_contiguous(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Return whether strides (in elements) are those of a contiguous tensor; axes of size 1 may have any stride."""
    step = 1
    for count, own in zip(reversed(shape), reversed(stride), strict=True):
        if count != 1 and own != step:
            return prod(shape) == 0
        step *= count
    return True


@dataclass(frozen=True)
class View:
    """The operation that takes a strided view of a one-dimensional tensor; strides are in elements."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __call__(self, run: torch.Tensor) -> torch.Tensor:
        """Return a contiguous copy of the view."""
        return run.as_strided(self.shape, self.stride).contiguous()
