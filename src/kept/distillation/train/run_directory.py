"""The directory of a run: of one run at a time, and of one command whose files are what they were."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import read_json, to_json
from kept.checkpoint.small_files import refused, write_whole
from kept.errors import CheckpointError, InputError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from kept.distillation.train.parallel import Ranks

LOCK, ASKED, PARTIAL = "lock", "settings.json", ".partial"

WAY_OUT = "remove the directory, or choose another --out"


@contextmanager
def alone(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Make the directory of a run, and hold it. Raises OutputError where another run does, or the disk refuses."""
    with ExitStack() as held:
        ranks.once(lambda: hold(folder, held))
        yield


def hold(folder: Path, held: ExitStack) -> None:
    """Take a lock that ends with the process. Its file stays: removing it would let two hold it.

    Raises OutputError where another run has it, or the disk refuses.
    """
    with refused(folder):
        folder.mkdir(parents=True, exist_ok=True)
        opened = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
        lock = held.enter_context(os.fdopen(opened, "r+b", buffering=0))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"{folder}: another run is at work on it; wait for it, or choose another --out") from None


def asked_before(folder: Path) -> Mapping[str, Any]:
    """Return the settings of the run that `begin` would resume; empty if it would start a new one."""
    if not any(folder.glob("step-*[0-9]")):
        return {}
    found = _noted(folder / ASKED).get("settings")
    return found if isinstance(found, dict) else {}


def clear(folder: Path, which: str = f"*{PARTIAL}") -> None:
    """Remove the unfinished checkpoints of a killed run, or those that match the pattern `which`."""
    for place in folder.glob(which):
        remove(place)


def remove(place: Path) -> None:
    """Remove a checkpoint directory, or a file or link of that name."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def begin(folder: Path, settings: Mapping[str, Any], sums: Mapping[str, str]) -> None:
    """Note what a run was asked and the sums of what it reads, or find both as the same command left them.

    A run without a checkpoint never began. Raises InputError where the run that is there is another.
    """
    file, asked = folder / ASKED, to_json({"settings": settings, "sums": sums})
    if not any(folder.glob("step-*[0-9]")):
        with refused(folder):
            write_whole(file, asked)
        return
    found, wanted = _noted(file), json.loads(asked)
    changed, replaced = (_differing(found.get(part), wanted[part]) for part in ("settings", "sums"))
    if changed:
        raise InputError(f"{folder}: is a run with other settings ({', '.join(changed)}); give them again, {WAY_OUT}")
    if replaced:
        raise InputError(f"{folder}: is a run that read other contents of {', '.join(replaced)}; {WAY_OUT}")


def _noted(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"{file}: is missing, so nobody knows what made the checkpoints beside it; {WAY_OUT}")
    try:
        return read_json(file)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {WAY_OUT}") from None


def _differing(found: object, wanted: Mapping[str, Any]) -> list[str]:
    known = found if isinstance(found, dict) else {}
    return [key for key, value in wanted.items() if known.get(key) != value]
