"""Check that a checkpoint's file may be read: a regular file of bounded size whose links stay in the checkpoint."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from itertools import islice
from pathlib import Path

from kept.checkpoint.small_files import regular
from kept.errors import CheckpointError, reason

LARGEST_COMPANION = 100_000_000
"""Bytes of a file that is copied along with the weights."""

MOST_ENTRIES = 10_000
"""Maximum number of entries of a directory that are listed."""

POINTER, LONGEST_POINTER = b"version https://git-lfs", 1024
"""First bytes, and largest size in bytes, of a git-lfs pointer: a placeholder for a file that was not fetched."""


def check_readable(directory: Path, name: str, most: int | None = None) -> None:
    """Raise CheckpointError unless `name` in a checkpoint's directory is a file that may be read.

    A link may point into the same directory, and from a snapshot in the hub client's cache to a blob of the same
    repository. `most` bounds the size in bytes.
    """
    file = directory / name
    try:
        status = file.stat()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({reason(error)})") from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{file}: cannot be read (it is not a regular file)")
    real = Path(os.path.realpath(file))
    if not any(real.is_relative_to(root) for root in roots(directory)):
        raise CheckpointError(f"{file}: is a link to {real}, outside of the checkpoint; put the file itself there")
    if most is not None and status.st_size > most:
        raise CheckpointError(f"{file}: has {status.st_size} bytes, more than {most}; is it what its name says?")
    if status.st_size <= LONGEST_POINTER and _is_pointer(file):
        raise CheckpointError(f"{file}: is a git-lfs pointer, not the file itself; run git lfs pull")


def entries(directory: Path) -> list[Path]:
    """Return at most `MOST_ENTRIES` entries of a directory, sorted by name."""
    return sorted(islice(directory.iterdir(), MOST_ENTRIES))


def _is_pointer(file: Path) -> bool:
    """Return whether a small file is a git-lfs pointer. False if it cannot be read: its reader reports that."""
    with suppress(OSError), open(file, "rb", opener=regular) as opened:
        return opened.read(len(POINTER)) == POINTER
    return False


def check_companions(directory: Path, names: tuple[str, ...]) -> None:
    """Run `check_readable` on each of these names that exists, broken links included. Raises CheckpointError."""
    for name in names:
        if os.path.lexists(directory / name):
            check_readable(directory, name, LARGEST_COMPANION)


def roots(directory: Path) -> list[Path]:
    """Return the directories that links may point into: this one and, for a hub snapshot, its repository's blobs."""
    real = Path(os.path.realpath(directory))
    repository = real.parent.parent
    if real.parent.name == "snapshots" and repository.name.startswith(("models--", "datasets--")):
        return [real, repository / "blobs"]
    return [real]
