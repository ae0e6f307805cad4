"""Bytes on their way into a file: computed in blocks, or copied; and the sums of files that are read meanwhile.

A writer says how far it is. Another thread reads the source's files a little ahead of it and makes their sha256, so
that the writer finds them in memory, and summing costs neither its time nor a second read of the disk.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from hashlib import sha256
from threading import Condition
from typing import TYPE_CHECKING

from kept.errors import CheckpointError, OutputError, Overflow
from kept.ir.tensors import Concat, Lazy, Stored, torch_dtype, wider, working_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import FileIO
    from pathlib import Path

    import torch

    from kept.checkpoint.direct_io import Output

    Progress = Callable[[int], None]

PIECE = 1 << 22
"""Bytes read at a time to be summed."""

LEAD = 1 << 28
"""Bytes that a reader of the source may be ahead of the writer: enough to read for it, too few to crowd memory."""


class Stopped(Exception):  # noqa: N818 - it is what happened, not what is wrong
    """The work that was followed ended before its time."""


class WriteProgress:
    """How far some work is, for threads that follow it."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._done = 0
        self._ended = self._stopped = False

    def advance(self, count: int) -> None:
        """Say that `count` more are done."""
        with self._changed:
            self._done += count
            self._changed.notify_all()

    def end(self) -> None:
        """Say that the work is done: nobody need wait for more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Say that the work was given up: whoever waits, now or later, gets `Stopped`; after `end` nobody does."""
        with self._changed:
            self._stopped = not self._ended
            self._changed.notify_all()

    def wait(self, wanted: float) -> bool:
        """Wait until so much is done. True where it is, False where the work ended before."""
        with self._changed:
            self._changed.wait_for(lambda: self._done >= wanted or self._ended or self._stopped)
            if self._stopped:
                raise Stopped
            return self._done >= wanted


def digest(file: Path, progress: Progress | None = None) -> str:
    """The sha256 of a file, in hexadecimal. `progress` is called with bytes as they are done."""
    hashed = sha256()
    with file.open("rb", buffering=0) as opened:
        piece = memoryview(bytearray(PIECE))
        while count := opened.readinto(piece):
            hashed.update(piece[:count])
            if progress is not None:
                progress(count)
    return hashed.hexdigest()


def paced(written: WriteProgress, share: float) -> Progress:
    """A progress that holds its caller to `share` bytes for each byte that is written, and `LEAD` more."""
    read = 0

    def progress(count: int) -> None:
        nonlocal read
        read += count
        written.wait((read - LEAD) / share)

    return progress


def write_tensors(tensors: Iterable[tuple[str, Lazy]], out: Output, progress: Progress) -> None:
    """Write tensors' bytes: those of a file are copied, others computed. `progress` gets bytes as they are written.

    Raises Overflow naming a computed tensor that is not finite.
    """
    for name, tensor in ((name, part) for name, whole in tensors for part in _parts(whole)):
        if isinstance(tensor, Stored):
            copy(tensor.file, out, tensor.offset, tensor.nbytes, progress)
            continue
        with one_thread():
            for block in tensor.blocks(working_precision(tensor.dtype)):
                rounded = block.to(torch_dtype(tensor.dtype))
                _check_finite(name, block, rounded)
                data = raw(rounded)
                out.write(data)
                progress(data.nbytes)


def _parts(tensor: Lazy) -> Iterator[Lazy]:
    """Runs of rows that have their bytes in files, and those that do not."""
    if not isinstance(tensor, Concat) or any(part.dtype != tensor.dtype for part in tensor.parts):
        yield tensor
        return
    for part in tensor.parts:
        yield from _parts(part)


def _check_finite(name: str, block: torch.Tensor, rounded: torch.Tensor) -> None:
    """A sum is finite where all is, and costs less to find; where it is not, each value is looked at."""
    if math.isfinite(rounded.sum(dtype=block.dtype)) or bool(rounded.isfinite().all()):
        return
    count = int((~rounded.isfinite()).sum())
    if bool(block.isfinite().all()):
        kind = str(rounded.dtype).removeprefix("torch.")
        raise Overflow(f"{name}: {count} values are beyond {kind}; {wider(kind)}")
    kind = str(block.dtype).removeprefix("torch.")
    raise Overflow(f"{name}: {count} values are not finite when they are computed in {kind}; {wider(kind)}")


@contextmanager
def one_thread() -> Iterator[None]:
    """Blocks are too small to share among threads: waiting for each other takes longer than the work."""
    import torch  # noqa: PLC0415 - planning needs no torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def raw(block: torch.Tensor) -> memoryview:
    """The bytes of a tensor."""
    import torch  # noqa: PLC0415 - planning needs no torch

    return block.contiguous().view(-1).view(torch.uint8).numpy().data


def copy(path: Path, out: Output, offset: int, count: int, progress: Progress | None = None) -> None:
    """Copy bytes of a file.

    Raises CheckpointError where it cannot be read, OutputError where it ends early.
    """
    try:
        source = path.open("rb", buffering=0)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    with source:
        source.seek(offset)
        while count:
            read = _read(source, out.room()[:count])
            if not read:
                raise OutputError(f"{path}: ended early; did it change during the run?")
            out.fill(read)
            count -= read
            if progress is not None:
                progress(read)


def _read(source: FileIO, room: memoryview) -> int:
    try:
        return source.readinto(room)
    except OSError as error:
        raise CheckpointError(f"{source.name}: cannot be read ({error.strerror})") from None
