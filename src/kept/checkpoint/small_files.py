"""Small files and directories on a disk that may refuse, be full, or lose power."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING

from kept.errors import OutputError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ROOM = "free space or permissions?"

LONGEST_SUFFIX = ".kept-partial.part"
"""A suffix as long as those of the hidden files and directories in which outputs are built."""


@contextmanager
def refused(place: Path, what: str = "cannot be written", way_out: str = ROOM) -> Iterator[None]:
    """Say what the system refuses as an OutputError that names the place."""
    try:
        yield
    except OSError as error:
        blocked = next((parent for parent in place.parents if _is_file(parent)), None)
        if blocked is not None:
            raise OutputError(f"{place}: {what}, {blocked} is not a directory; choose another place") from error
        raise OutputError(f"{place}: {what} ({reason(error)}); {way_out}") from error


def check_writable(target: Path) -> None:
    """Raise OutputError if nothing can be made at `target`: before work of hours, not after it.

    A file without a name is made in the nearest directory that exists, and is gone at once. A `~` that no shell
    replaced (`--out=~/model`, a recipe) is refused: who removes a directory of that name may remove the home directory.
    """
    with refused(target):
        if target.parts[1:] and target.parts[0].startswith("~") and not os.path.lexists(target.parts[0]):
            raise OutputError(f"{target}: begins with ~, which stands for no directory here; write the whole path")
        target.with_name(f".{target.name}{LONGEST_SUFFIX}").exists()  # raises for a name that is too long
        nearest = next(parent for parent in target.absolute().parents if os.path.lexists(parent))
        with TemporaryFile(dir=nearest):
            pass


def _is_file(path: Path) -> bool:
    """Return whether a path exists and is not a directory."""
    return os.path.exists(path) and not os.path.isdir(path)  # noqa: PTH110, PTH112 - Path's raise for a long name


def regular(path: str, flags: int) -> int:
    """Open a regular file; an `opener` for `open`. Raises OSError for pipes and devices, which may have no end.

    The open descriptor is checked, not the path, so the file cannot be swapped between check and use.
    """
    opened = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    mode = os.fstat(opened).st_mode
    if stat.S_ISREG(mode):
        return opened
    os.close(opened)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    raise OSError(errno.EINVAL, "it is not a regular file")


def no_link(path: str, flags: int) -> int:
    """Open a regular file for writing without following a link; an `opener` for `open`. Raises OSError.

    Another user may have put a link at the path of an unfinished file.
    """
    return regular(path, flags | os.O_NOFOLLOW)


def write_whole(file: Path, content: bytes) -> None:
    """Write a small file atomically: it gets its name once it is on the disk, and replaces an existing file.

    Two processes that write the same file take turns. A part file of a killed process is overwritten.
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
    """Open a part file and hold its lock; links are not followed."""
    while True:
        descriptor = no_link(os.fspath(part), os.O_RDWR | os.O_CREAT)
        with os.fdopen(descriptor, "r+b") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):  # the process that held the lock has renamed it
                if os.path.samestat(part.lstat(), os.fstat(descriptor)):
                    yield opened
                    return


@contextmanager
def locked_part(target: Path) -> Iterator[Path]:
    """Yield the path at which to build a file before it is renamed to `target`. It is removed unless it was renamed.

    Raises OutputError if `target` exists, if it cannot be made, or if another process builds it.
    """
    with refused(target):
        check_writable(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.part{target.suffix}")
        with open(part, "ab", opener=no_link) as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise OutputError(f"{target}: another run is writing it; wait for it or choose another file") from None
            try:
                if os.path.lexists(target):
                    raise OutputError(f"{target}: exists already; choose another file or remove it")
                yield part
            finally:
                part.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Wait until a directory's entries are on the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
