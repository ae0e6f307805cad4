"""List the files of a directory of documents. Only regular files, and no symbolic link that leads out of it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kept.checkpoint.file_access import roots
from kept.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_FILES = 1_000_000
"""Maximum number of files in a directory: their names are held in memory and sorted."""

DEEPEST = 64
"""Maximum depth of nested directories."""


@dataclass(frozen=True)
class DataFile:
    """A file, and its name in a source: the path relative to the given directory."""

    path: Path
    name: str

    @property
    def nbytes(self) -> int:
        """The file's size in bytes."""
        return self.path.stat().st_size


def files_of(path: Path) -> list[DataFile]:
    """Return the file at a path, or every file below a directory, sorted by path, without hidden ones.

    The path itself may be a symbolic link to anywhere. A link below a directory must lead into it or, from a snapshot
    in the hub client's cache, to a blob of the same repository. Raises InputError for any other link, for a special
    file, and for too many or too deeply nested files; raises OSError if the disk refuses.
    """
    if not path.is_dir():
        if not path.exists():
            raise InputError(f"{path}: does not exist; name a file or a directory of documents")
        return [DataFile(_regular(path), path.name)]
    found = []
    for file in _below(path, roots(path)):
        found.append(DataFile(_regular(file), str(file.relative_to(path))))
        if len(found) > MOST_FILES:
            raise InputError(f"{path}: holds more than {MOST_FILES} files; join them into fewer, as JSON lines")
    return sorted(found, key=lambda one: one.path)


def _below(folder: Path, allowed: list[Path]) -> Iterator[Path]:
    """Yield all entries that are not directories, following links; a link to a directory above itself is skipped."""
    left = [(folder, frozenset[str]())]
    while left:
        here, above = left.pop()
        real = os.path.realpath(here)
        if real in above:
            continue
        if len(above) > DEEPEST:
            raise InputError(f"{here}: is more than {DEEPEST} directories deep; name that directory itself")
        for entry in os.scandir(here):
            if entry.name.startswith("."):
                continue
            path = here / entry.name
            if entry.is_symlink():
                _inside(path, folder, allowed)
            if entry.is_dir():
                left.append((path, above | {real}))
            else:
                yield path


def _inside(link: Path, folder: Path, allowed: list[Path]) -> None:
    """Raise InputError for a symbolic link that leads out of a directory."""
    target = Path(os.path.realpath(link))
    if not any(target.is_relative_to(root) for root in allowed):
        raise InputError(
            f"{link}: is a link that leads out of {folder}, to {target}; name the target as data too, or copy it"
        )


def _regular(path: Path) -> Path:
    """Return the path. Raises InputError for a pipe, a socket or a device, whose content may never end."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise InputError(f"{path}: is not a regular file; name a file or a directory of documents")
    return path
