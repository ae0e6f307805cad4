"""Checkpoints of a run: written while it goes on, whole or not at all, by any number of ranks for any other.

`torch.distributed.checkpoint` writes what learns and its optimiser; a directory gets its name when it is on the disk.
"""

from __future__ import annotations

import json
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from kept.checkpoint.disk import sync_directory, write_whole
from kept.checkpoint.stream import digest
from kept.checkpoint.writer import to_json
from kept.errors import CheckpointError, OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from torch import nn
    from torch.optim import Optimizer

    from kept.distillation.parallel import Ranks

OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)
"""Not strict: a model has frozen weights too. What a checkpoint lacks is an error of reading it."""

PARTIAL, SUMS = ".partial", "sums.json"

FAILED = (Exception, CheckpointException)
"""The second is no `Exception`."""


@dataclass
class States:
    """The checkpoints of one run under a directory, `step-00000100` and so on; the newest two are kept."""

    directory: Path
    ranks: Ranks
    keep: int = 2
    _writing: tuple[Path, Future[None]] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Make a group for the checkpoints: they are agreed on by other threads, while the run sends its own."""
        self._naming = ThreadPoolExecutor(1)
        self._group = dist.new_group(backend="gloo")

    def newest(self) -> Path | None:
        """The last that was finished."""
        found = sorted(self.directory.glob("step-*[0-9]"))
        return found[-1] if found else None

    def begin(self, step: int, model: nn.Module, optimiser: Optimizer, rest: dict[str, Any]) -> None:
        """Begin to write; the run may go on. `rest` is what else the run remembers: numbers and small tensors."""
        self.settle()
        weights, moments = get_state_dict(model, optimiser, options=OPTIONS)
        place = self.directory / f"step-{step:08}{PARTIAL}"
        state = {"weights": weights, "moments": moments, "rest": rest}
        with self._errors(place):
            written: Any = dcp.async_save(state, checkpoint_id=place, process_group=self._group)  # type: ignore[attr-defined] # torch's stubs
        self._writing = place, self._naming.submit(self._name, place, written)

    def settle(self) -> None:
        """Wait for what is being written. Raises OutputError where the disk refused."""
        if self._writing is None:
            return
        (place, named), self._writing = self._writing, None
        with self._errors(place):
            named.result()
        dist.barrier()

    def _name(self, place: Path, written: Future[Any]) -> None:
        """Give a checkpoint its name as soon as it is written: by all ranks, when it is by the first."""
        written.result()
        if not self.ranks.first:
            return
        write_whole(place / SUMS, to_json(_sums(place)))
        final = place.with_name(place.name.removesuffix(PARTIAL))
        shutil.rmtree(final, ignore_errors=True)
        place.rename(final)
        sync_directory(self.directory)
        for old in sorted(self.directory.glob("step-*[0-9]"))[: -self.keep]:
            _remove(old)

    def load(self, place: Path, model: nn.Module, optimiser: Optimizer, rest: dict[str, Any]) -> dict[str, Any]:
        """Read a checkpoint into a model and its optimiser; returns what `begin` was given as `rest`.

        Raises CheckpointError where a file is not as it was written. That is found out before `torch` reads one, which
        notices little of it, and has words of its own for the rest.
        """
        self.ranks.once(lambda: _check(place))
        weights, moments = get_state_dict(model, optimiser, options=OPTIONS)
        state: dict[str, Any] = {"weights": weights, "moments": moments, "rest": rest}
        try:
            dcp.load(state, checkpoint_id=place)  # type: ignore[attr-defined] # torch's stubs
        except FAILED as error:
            raise _damaged(place, _reason(error)) from error
        set_state_dict(
            model, optimiser, model_state_dict=state["weights"], optim_state_dict=state["moments"], options=OPTIONS
        )
        return {**state["rest"]}

    @contextmanager
    def _errors(self, place: Path) -> Iterator[None]:
        try:
            yield
        except FAILED as error:
            if self.ranks.first:
                shutil.rmtree(place, ignore_errors=True)
            raise OutputError(
                f"{place}: a checkpoint cannot be written ({_reason(error)}); free space or permissions?"
            ) from error


def _reason(error: BaseException) -> str:
    """What the file system said, out of what `torch` wraps around it."""
    if isinstance(error, CheckpointException):
        error = next((found for found, _ in error.failures.values()), error)
    if "inline_container" in str(error):
        return "a file was cut short"  # the zip writer counts, and forgets why
    return str(getattr(error, "strerror", None) or error or type(error).__name__)


def _sums(place: Path) -> dict[str, str]:
    """The sha256 of each file of a checkpoint."""
    return {file.name: digest(file) for file in sorted(place.iterdir()) if file.name != SUMS}


def _check(place: Path) -> None:
    try:
        wanted, found = json.loads((place / SUMS).read_bytes()), _sums(place)
    except (OSError, ValueError) as error:
        raise _damaged(place, f"{SUMS}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(wanted, dict):
        raise _damaged(place, f"{SUMS}: holds no sums")
    changed = [name for name in {**found, **wanted} if found.get(name) != wanted.get(name)]
    if changed:
        raise _damaged(place, f"{', '.join(changed)}: not as written")


def _damaged(place: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{place}: is no whole checkpoint ({why}); remove it to go on from the one before")


def clear(directory: Path, which: str = f"*{PARTIAL}") -> None:
    """Remove what a run that was killed had begun to write, or other checkpoints."""
    for place in directory.glob(which):
        _remove(place)


def _remove(place: Path) -> None:
    """Remove a checkpoint, or a file that has the name of one."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink()


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of the generators that a step may draw from."""
    out = {"cpu": torch.get_rng_state()}
    return {**out, "device": torch.cuda.get_rng_state(device)} if device.type == "cuda" else out
