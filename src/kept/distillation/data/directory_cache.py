"""A directory that is made once: under its name it is whole, and two processes that want it make it once."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kept.checkpoint.small_files import refused, sync_directory
from kept.errors import InputError, OutputError, Overflow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def default_cache() -> Path:
    """Where tokens are kept unless another place is named: `kept/tokens` in the user's cache directory."""
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".cache") / "kept" / "tokens"


def cached(root: Path, key: str, build: Callable[[Path], None]) -> Path:
    """The directory `root/key`, filled by `build` where there is none yet.

    `build` gets a hidden directory, which is renamed when it returns. What an interrupted run left in it is still
    there, to be continued or written over. A process that finds another at work waits for it. Raises OutputError where
    the place cannot be written.
    """
    final, part = root / key, root / f".{key}.part"
    with refused(root, "the cache cannot be written", "free space, or name another place"):
        if final.is_dir():
            return final
        root.mkdir(parents=True, exist_ok=True)
        with _alone(root / f".{key}.lock"):
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


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that ends with the process. Its file stays: removing it would let two hold it."""
    opened = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)
