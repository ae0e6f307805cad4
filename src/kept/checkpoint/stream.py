"""Bytes on their way into a file: computed in blocks, or copied by the kernel, and summed on another core meanwhile.

A writer says how far it is. A follower reads the file behind it, out of memory that the system still holds, and makes
the sha256, so that hashing costs no time of the writer's and no second read of the disk.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from hashlib import sha256
from threading import Condition
from typing import IO, TYPE_CHECKING

from kept.errors import CheckpointError, OutputError
from kept.ir.tensors import Lazy, Stored, torch_dtype, working_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import torch

    Progress = Callable[[int], None]

KERNEL_CANNOT = {errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM}

PIECE = 1 << 22
"""Bytes read at a time to be summed."""

KERNEL_PIECE = 1 << 26
"""Bytes that the kernel is asked to copy at a time."""

LEAD = 1 << 28
"""Bytes that a reader of the source may be ahead of the writer: enough to read for it, too few to crowd memory."""


class Stopped(Exception):  # noqa: N818 - it is what happened, not what is wrong
    """The work that was followed ended before its time."""


class Gauge:
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


def followed(file: Path, gauge: Gauge) -> str:
    """The sha256 of a file that is being written; `gauge` counts its bytes. Raises Stopped where that is given up."""
    hashed, at = sha256(), 0
    with file.open("rb", buffering=0) as opened:
        piece = memoryview(bytearray(PIECE))
        while gauge.wait(at + PIECE) or at < os.fstat(opened.fileno()).st_size:
            count = opened.readinto(piece)
            hashed.update(piece[:count])
            at += count
    return hashed.hexdigest()


def paced(gauge: Gauge, share: float) -> Progress:
    """A progress that holds its caller to `share` bytes for each one of the gauge's, and `LEAD` more."""
    read = 0

    def progress(count: int) -> None:
        nonlocal read
        read += count
        gauge.wait((read - LEAD) / share)

    return progress


def write_tensor(tensor: Lazy, file: IO[bytes], progress: Progress) -> None:
    """Write a tensor's bytes: those of a file are copied, others computed. `progress` gets bytes as they are done."""
    if isinstance(tensor, Stored):
        copy_file(tensor.file, file, tensor.offset, tensor.nbytes, progress)
        return
    for block in tensor.blocks(working_precision(tensor.dtype)):
        data = raw(block.to(torch_dtype(tensor.dtype)))
        file.write(data)
        file.flush()
        progress(data.nbytes)


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


def copy_file(
    path: Path, file: IO[bytes], offset: int = 0, count: int | None = None, progress: Progress | None = None
) -> None:
    """Copy bytes (None: all) within the kernel where it can, through this process where it cannot.

    Raises CheckpointError where the source cannot be opened, OutputError where it ends early.
    """
    try:
        source = path.open("rb")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    with source:
        left = os.fstat(source.fileno()).st_size - offset if count is None else count
        _copy(source, file, offset, left, progress)


def _copy(source: IO[bytes], file: IO[bytes], offset: int, count: int, progress: Progress | None) -> None:
    file.flush()
    done = 0
    while done < count:
        size = min(count - done, KERNEL_PIECE)
        try:
            moved = _kernel_copy(source, file, size, offset + done)
        except OSError as error:
            if error.errno not in KERNEL_CANNOT:
                raise
            source.seek(offset + done)
            moved = file.write(source.read(min(size, PIECE)))
            file.flush()
        if not moved:
            raise OutputError(f"{source.name}: ended early; did it change during the run?")
        done += moved
        if progress is not None:
            progress(moved)


def _kernel_copy(source: IO[bytes], file: IO[bytes], size: int, offset: int) -> int:
    if not hasattr(os, "copy_file_range"):  # Linux has it
        raise OSError(errno.ENOSYS, "no copy_file_range")
    return os.copy_file_range(source.fileno(), file.fileno(), size, offset_src=offset)
