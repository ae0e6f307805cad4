"""Small files and directories on a disk that may refuse, be full, or lose power."""

from __future__ import annotations

import os
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from kept.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOM = "free space or permissions?"


@contextmanager
def refused(place: Path, what: str = "cannot be written", way_out: str = ROOM) -> Iterator[None]:
    """Say what the system refuses as an OutputError that names the place."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{place}: {what} ({error.strerror or error}); {way_out}") from error


def write_whole(file: Path, content: bytes) -> None:
    """Write a small file that has its name only when it is on the disk; one that is there is replaced."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")  # two processes may write the same
    try:
        with part.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        part.rename(file)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise


def sync_directory(path: Path) -> None:
    """Wait until a directory's entries are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
