"""Small files and directories on a disk that may refuse, be full, or lose power."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from kept.errors import OutputError, reason

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
        raise OutputError(f"{place}: {what} ({reason(error)}); {way_out}") from error


def regular(path: str, flags: int) -> int:
    """Open a file, as the `opener` of `open`: never a pipe or a device, which may never end.

    What was opened is looked at, not what had the name before. Raises OSError.
    """
    opened = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    mode = os.fstat(opened).st_mode
    if stat.S_ISREG(mode):
        return opened
    os.close(opened)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "it is no regular file")


def no_link(path: str, flags: int) -> int:
    """Open a file that is ours to write, as the `opener` of `open`: a regular one, and never through a link.

    What lies where an unfinished file should be may have been put there. Raises OSError.
    """
    return regular(path, flags | os.O_NOFOLLOW)


def write_whole(file: Path, content: bytes) -> None:
    """Write a small file that has its name only when it is on the disk; one that is there is replaced.

    Of two processes that write the same, one waits. What a killed one had begun is written over by the next.
    """
    part = file.with_name(f".{file.name}.part")
    with _alone(part) as opened:
        try:
            opened.truncate()
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
            part.rename(file)
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise


@contextmanager
def _alone(part: Path) -> Iterator[IO[bytes]]:
    """Hold a file that is being written; links are not followed."""
    while True:
        descriptor = no_link(os.fspath(part), os.O_RDWR | os.O_CREAT)
        with os.fdopen(descriptor, "r+b") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):  # else whoever held it has given it its name meanwhile
                if os.path.samestat(part.lstat(), os.fstat(descriptor)):
                    yield opened
                    return


def sync_directory(path: Path) -> None:
    """Wait until a directory's entries are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
