"""Directories that are built once and appear complete, also if two processes ask for one at the same time."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from kept.checkpoint.small_files import refused, sync_directory
from kept.errors import InputError, OutputError, Overflow

if TYPE_CHECKING:
    from collections.abc import Callable


def default_cache() -> Path:
    """Return the default directory of tokenised data: `kept/tokens` in the user's cache directory."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".cache") / "kept" / "tokens"


def cached(root: Path, key: str, build: Callable[[Path], None]) -> Path:
    """Return the directory `root/key`. If it does not exist, `build` fills it.

    `build` gets a hidden directory, which is renamed when it returns. Files of an interrupted run are still in it. A
    process waits while another one builds. Raises OutputError if the directory cannot be written.
    """
    final, part = root / key, root / f".{key}.part"
    with refused(root, "the cache cannot be written", "free space, or name another place"):
        if final.is_dir():
            return final
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{key}.lock"):
            if not final.is_dir():
                if part.is_symlink():
                    raise OutputError(f"{part}: is a symbolic link, not the directory of an earlier run; remove it")
                part.mkdir(exist_ok=True)
                _fill(part, build)
                part.rename(final)
                sync_directory(root)
    return final


def _fill(part: Path, build: Callable[[Path], None]) -> None:
    try:
        build(part)
    except (InputError, Overflow):  # a rerun would fail the same way, so there is nothing to continue
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync_directory(part)
