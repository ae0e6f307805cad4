"""A file that is written in order, past the page cache where the system can, and summed meanwhile.

Through the page cache every page is allocated, filled, and written later, which keeps a core busier than the disk. Here
bytes go into a few pieces of memory that are used again and again: while the disk has one, another thread adds the next
to the sum, and the caller fills a third.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from typing import TYPE_CHECKING, Self

from kept.checkpoint.small_files import no_link

if TYPE_CHECKING:
    from pathlib import Path

DIRECT = getattr(os, "O_DIRECT", 0)
"""Linux's flag for writes past the page cache; without it bytes take the usual way."""

ALIGNED = 1 << 12
"""Alignment in bytes of offsets, lengths and memory of direct writes."""

PIECE = 1 << 23
"""Bytes that are written at once."""

PIECES = 6

PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
"""Memory that begins at a page, as direct writes need it, and that counts as this process's own."""


class Output:
    """Takes bytes in order. `finish` returns their sha256 when they are on the disk.

    Every method may raise the OSError of an earlier write.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "wb", buffering=0, opener=no_link)  # noqa: SIM115 - Path.open takes no opener; closed in __exit__
        set_direct(self._file.fileno(), on=True)
        self._hashing, self._writing = ThreadPoolExecutor(1), ThreadPoolExecutor(1)
        self._sum = sha256()
        self._free = [memoryview(mmap.mmap(-1, PIECE, flags=PRIVATE)) for _ in range(PIECES)]
        self._sent: deque[tuple[memoryview, Future[None]]] = deque()
        self._piece, self._filled = self._free.pop(), 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file, finished or not."""
        for pool in (self._hashing, self._writing):
            pool.shutdown(cancel_futures=True)
        self._file.close()

    def room(self) -> memoryview:
        """Memory for the next bytes, at least one; tell `fill` how many there are."""
        return self._piece[self._filled :]

    def fill(self, count: int) -> None:
        """The first `count` bytes of the room are written."""
        self._filled += count
        if self._filled == PIECE:
            self._send()

    def write(self, data: bytes | memoryview) -> None:
        """Write bytes that are elsewhere."""
        rest = memoryview(data)
        while rest:
            room = self.room()
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            self.fill(count)
            rest = rest[count:]

    def finish(self) -> str:
        """Wait for the disk. Returns the sha256 in hexadecimal."""
        if self._filled:
            self._send()
        for _, written in self._sent:
            written.result()
        os.fsync(self._file.fileno())
        return self._sum.hexdigest()

    def _send(self) -> None:
        data = self._piece[: self._filled]
        summed = self._hashing.submit(self._sum.update, data)
        self._sent.append((self._piece, self._writing.submit(self._put, data, summed)))
        self._piece, self._filled = self._next(), 0

    def _next(self) -> memoryview:
        if self._free:
            return self._free.pop()
        piece, written = self._sent.popleft()
        written.result()
        return piece

    def _put(self, data: memoryview, summed: Future[None]) -> None:
        whole = len(data) - len(data) % ALIGNED
        self._write(data[:whole])
        if whole < len(data):  # only a file's end
            set_direct(self._file.fileno(), on=False)
            self._write(data[whole:])
        summed.result()

    def _write(self, data: memoryview) -> None:
        while data:
            try:
                data = data[os.write(self._file.fileno(), data) :]
            except OSError as error:
                # A file system may take the flag and not the write, or stop in the middle of a block.
                if error.errno != errno.EINVAL or not set_direct(self._file.fileno(), on=False):
                    raise


def set_direct(opened: int, *, on: bool) -> bool:
    """Switch a file to direct writes, or back. Returns whether that changed anything; some file systems have none."""
    flags = fcntl.fcntl(opened, fcntl.F_GETFL)
    wanted = flags | DIRECT if on else flags & ~DIRECT
    if wanted == flags:
        return False
    try:
        fcntl.fcntl(opened, fcntl.F_SETFL, wanted)
    except OSError:
        return False
    return True
