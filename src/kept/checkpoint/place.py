"""Where an output may be: inputs are never outputs, and nothing is replaced but what the same command wrote."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from kept.checkpoint.disk import refused
from kept.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CHECKPOINT = ("config.json", "kept.json", "params.json")
"""A directory with one of these is a checkpoint."""


def check_place(source: Path, target: Path, called: str = "the source") -> None:
    """Raise OutputError where a target has no name of its own, or lies inside what it is made of."""
    # Path.resolve trips over a loop of links.
    inside, place = (Path(os.path.realpath(path)) for path in (source, target))
    if target.name in {"", ".."}:
        raise OutputError(f"{target}: names no new directory; choose another output")
    if inside in (place, *place.parents):
        raise OutputError(f"{target}: lies inside {called}; choose a place outside of it")


def check_apart(target: Path, inputs: Mapping[str, Path]) -> None:
    """Raise OutputError where a target lies inside a directory that is read; `inputs` are paths by what they are."""
    for called, path in inputs.items():
        if os.path.isdir(path):  # noqa: PTH112 - a name of any length is no error
            check_place(path, target, f"{called} {path}")


def check_file(target: Path, inputs: Mapping[str, Path], ours: Callable[[Path], bool]) -> None:
    """Raise OutputError unless a file may be written: where none is, or where the same command wrote the one that is.

    `inputs`: what is read, files and directories, by what they are called. `ours`: whether a file is an earlier output.
    A link is not followed, and an input is one under any name, hard links too.
    """
    check_apart(target, inputs)
    with refused(target):
        if not os.path.lexists(target):
            return
        if not stat.S_ISREG(target.lstat().st_mode):
            raise OutputError(f"{target}: is no regular file; name another")
        for called, path in inputs.items():
            if path.exists() and path.samefile(target):
                raise OutputError(f"{target}: is {called} {path}, which is read; name another file")
        if not ours(target):
            raise OutputError(f"{target}: is there and was not written by this command; name another file or remove it")


def check_no_checkpoint(target: Path) -> None:
    """Raise OutputError where a file would lie among those of a checkpoint."""
    found = next((name for name in CHECKPOINT if (target.parent / name).exists()), None)
    if found is not None:
        raise OutputError(f"{target}: lies in a checkpoint ({target.parent / found}); choose a place outside of it")
