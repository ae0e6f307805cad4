"""The files of a checkpoint that may be read: regular, of bounded size, and behind no link that leads out of it."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from kept.checkpoint.disk import regular
from kept.errors import CheckpointError, reason

LARGEST_COMPANION = 100_000_000
"""Bytes of a file that goes along with the weights."""

POINTER, LONGEST_POINTER = b"version https://git-lfs", 1024
"""How a file begins that git-lfs leaves in the place of one that was not fetched, and its bytes at most."""


def check_file(directory: Path, name: str, most: int | None = None) -> None:
    """Raise CheckpointError unless `name` in a checkpoint's directory is a file that may be read.

    A link may lead to another place in the directory and, from a snapshot in the hub client's cache, to a blob of the
    same repository. `most` bounds the size in bytes.
    """
    file = directory / name
    try:
        status = file.stat()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({reason(error)})") from None
    if not stat.S_ISREG(status.st_mode):
        raise CheckpointError(f"{file}: cannot be read (it is no regular file)")
    real = Path(os.path.realpath(file))
    if not any(real.is_relative_to(root) for root in roots(directory)):
        raise CheckpointError(f"{file}: is a link to {real}, outside of the checkpoint; put the file itself there")
    if most is not None and status.st_size > most:
        raise CheckpointError(f"{file}: has {status.st_size} bytes, more than {most}; is it what its name says?")
    if status.st_size <= LONGEST_POINTER and _is_pointer(file):
        raise CheckpointError(f"{file}: was not fetched, it is a pointer of git-lfs; git lfs pull fetches it")


def _is_pointer(file: Path) -> bool:
    """Whether a small file stands for one that git-lfs has not fetched. Whoever reads it says why it cannot be read."""
    with suppress(OSError), open(file, "rb", opener=regular) as opened:
        return opened.read(len(POINTER)) == POINTER
    return False


def check_companions(directory: Path, names: tuple[str, ...]) -> None:
    """Check each of these that is there, links to nothing or out of the directory too. Raises as `check_file`."""
    for name in names:
        if os.path.lexists(directory / name):
            check_file(directory, name, LARGEST_COMPANION)


def roots(directory: Path) -> list[Path]:
    """The directory, and the blobs of the repository that it is a snapshot of."""
    real = Path(os.path.realpath(directory))
    repository = real.parent.parent
    if real.parent.name == "snapshots" and repository.name.startswith(("models--", "datasets--")):
        return [real, repository / "blobs"]
    return [real]
