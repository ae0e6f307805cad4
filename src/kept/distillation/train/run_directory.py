"""The directory of a run: used by one process group at a time, and by the same command on the same inputs."""

from __future__ import annotations

import json
import shutil
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from kept.checkpoint.json_file import read_json, to_json
from kept.checkpoint.small_files import refused, write_whole
from kept.distillation.settings_fields import CADENCE
from kept.errors import CheckpointError, InputError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from kept.distillation.settings import HealSettings
    from kept.distillation.train.process_group import Ranks

LOCK, SETTINGS, PARTIAL = "lock", "settings.json", ".partial"

SUFFIX = ".kept-healing"
"""Suffix of the directory beside the output in which a run keeps its checkpoints and metrics."""

WAY_OUT = "remove the directory, or choose another --out"


def run_directory(target: Path) -> Path:
    """Return the run directory of an output: checkpoints, metrics and settings."""
    return target.with_name(f".{target.name}{SUFFIX}")


def comparable_settings(settings: HealSettings) -> dict[str, Any]:
    """Return the settings that must be equal for a run to be resumed, in their JSON form."""
    asked = {key: value for key, value in settings.to_dict().items() if key not in CADENCE}
    found: dict[str, Any] = json.loads(json.dumps(asked))
    return found


@contextmanager
def locked_run_directory(folder: Path, ranks: Ranks) -> Iterator[None]:
    """Make the directory of a run and lock it. Raises OutputError if another run has it, or the disk refuses."""
    with ExitStack() as stack:
        ranks.on_first(lambda: lock_run_directory(folder, stack))
        yield


def lock_run_directory(folder: Path, stack: ExitStack) -> None:
    """Make and lock a directory until `stack` is closed or the process ends.

    Raises OutputError if another run has it, or the disk refuses.
    """
    with refused(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            stack.enter_context(FileLock(folder / LOCK, timeout=0))
        except Timeout:
            raise OutputError(f"{folder}: another run is using it; wait for it, or choose another --out") from None


def previous_settings(folder: Path) -> Mapping[str, Any]:
    """Return the settings of the run that `begin_run` would resume; empty if it would start a new one."""
    if not _has_checkpoint(folder):
        return {}
    found = _stored(folder / SETTINGS).get("settings")
    return found if isinstance(found, dict) else {}


def remove_checkpoints(folder: Path, pattern: str = f"*{PARTIAL}") -> None:
    """Remove the unfinished checkpoints of a killed run, or those that match `pattern`."""
    for place in folder.glob(pattern):
        remove(place)


def remove(place: Path) -> None:
    """Remove a checkpoint directory, or a file or link of that name."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def begin_run(folder: Path, settings: Mapping[str, Any], sums: Mapping[str, str]) -> None:
    """Store the settings of a run and the sha256 of its inputs, or compare them with those of the run to resume.

    A run without a checkpoint starts over. Raises InputError if the run there has other settings or inputs.
    """
    file, content = folder / SETTINGS, to_json({"settings": settings, "sums": sums})
    if not _has_checkpoint(folder):
        with refused(folder):
            write_whole(file, content)
        return
    stored, wanted = _stored(file), json.loads(content)
    changed, replaced = (_differing_keys(stored.get(part), wanted[part]) for part in ("settings", "sums"))
    if changed:
        raise InputError(f"{folder}: is a run with other settings ({', '.join(changed)}); use them again, {WAY_OUT}")
    if replaced:
        raise InputError(f"{folder}: is a run that read other contents of {', '.join(replaced)}; {WAY_OUT}")


def _has_checkpoint(folder: Path) -> bool:
    return any(folder.glob("step-*[0-9]"))


def _stored(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise CheckpointError(f"{file}: is missing, so the settings of its checkpoints are unknown; {WAY_OUT}")
    try:
        return read_json(file)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {WAY_OUT}") from None


def _differing_keys(stored: object, wanted: Mapping[str, Any]) -> list[str]:
    known = stored if isinstance(stored, dict) else {}
    return [key for key, value in wanted.items() if known.get(key) != value]
