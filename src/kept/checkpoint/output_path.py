"""Check the path of an output: it is no input, and it replaces only an earlier output of the same command."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from kept.checkpoint.small_files import check_writable, refused
from kept.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CHECKPOINT = ("config.json", "kept.json", "params.json")
"""Files that mark a directory as a checkpoint."""


def check_place(source: Path, target: Path, called: str = "the source") -> None:
    """Raise OutputError for a target that has no file name or lies inside `source`, which messages call `called`."""
    # Path.resolve raises for a loop of links; os.path.realpath does not.
    inside, place = (Path(os.path.realpath(path)) for path in (source, target))
    if target.name in {"", ".."}:
        raise OutputError(f"{target}: names no new directory; choose another output")
    if inside in (place, *place.parents):
        raise OutputError(f"{target}: lies inside {called}; choose a place outside of it")


def check_apart(target: Path, inputs: Mapping[str, Path]) -> None:
    """Raise OutputError for a target inside an input directory. `inputs` are paths by what messages call them."""
    for called, path in inputs.items():
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises for a long name
            check_place(path, target, f"{called} {path}")


def check_replaceable(target: Path, inputs: Mapping[str, Path], ours: Callable[[Path], bool]) -> None:
    """Raise OutputError unless `target` can be written, and is new or an earlier output of the same command.

    `inputs` are paths by what messages call them. `ours` tells whether a file is an earlier output. Links are not
    followed. Inputs are compared by inode, so a hard link to an input is rejected too.
    """
    check_apart(target, inputs)
    with refused(target):
        if not os.path.lexists(target):
            check_writable(target)
            return
        if not stat.S_ISREG(target.lstat().st_mode):
            raise OutputError(f"{target}: is not a regular file; name another")
        for called, path in inputs.items():
            if path.exists() and path.samefile(target):
                raise OutputError(f"{target}: is {called} {path}, which is read; name another file")
        if not ours(target):
            raise OutputError(f"{target}: exists and was not written by this command; name another file or remove it")
        check_writable(target)


def check_no_checkpoint(target: Path) -> None:
    """Raise OutputError for a target in the directory of a checkpoint."""
    found = next((name for name in CHECKPOINT if (target.parent / name).exists()), None)
    if found is not None:
        raise OutputError(f"{target}: lies in a checkpoint ({target.parent / found}); choose a place outside of it")
