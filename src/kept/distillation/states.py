"""Checkpoints of a run: written while it goes on, whole or not at all, by any number of ranks for any other.

`torch.distributed.checkpoint` writes what learns and its optimiser; a directory gets its name when it is on the disk.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict

from kept.errors import OutputError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import nn
    from torch.optim import Optimizer

    from kept.distillation.parallel import Ranks

OPTIONS = StateDictOptions(ignore_frozen_params=True, strict=False)
"""Not strict: a model has frozen weights too. What a checkpoint lacks is an error of reading it."""

PARTIAL = ".partial"


@dataclass
class States:
    """The checkpoints of one run under a directory, `step-00000100` and so on; the newest two are kept."""

    directory: Path
    ranks: Ranks
    keep: int = 2
    _writing: tuple[Path, Any] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Make a group for the checkpoints: they are agreed on by other threads, while the run sends its own."""
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
        self._writing = place, dcp.async_save(state, checkpoint_id=place, process_group=self._group)  # type: ignore[attr-defined] # torch's stubs

    def settle(self) -> None:
        """Wait for what is being written, and give it its name. Raises OutputError where the disk refused."""
        if self._writing is None:
            return
        (place, future), self._writing = self._writing, None
        try:
            future.result()
        except Exception as error:
            raise OutputError(
                f"{place}: a checkpoint cannot be written ({error}); free space or permissions?"
            ) from error
        if self.ranks.first:
            final = place.with_name(place.name.removesuffix(PARTIAL))
            shutil.rmtree(final, ignore_errors=True)
            place.rename(final)
            _sync(self.directory)
            for old in sorted(self.directory.glob("step-*[0-9]"))[: -self.keep]:
                shutil.rmtree(old)
        dist.barrier()

    def load(self, place: Path, model: nn.Module, optimiser: Optimizer, rest: dict[str, Any]) -> dict[str, Any]:
        """Read a checkpoint into a model and its optimiser; returns what `begin` was given as `rest`."""
        weights, moments = get_state_dict(model, optimiser, options=OPTIONS)
        state: dict[str, Any] = {"weights": weights, "moments": moments, "rest": rest}
        dcp.load(state, checkpoint_id=place)  # type: ignore[attr-defined] # torch's stubs
        set_state_dict(
            model, optimiser, model_state_dict=state["weights"], optim_state_dict=state["moments"], options=OPTIONS
        )
        return {**state["rest"]}


def clear(directory: Path) -> None:
    """Remove what a run that was killed had begun to write."""
    for place in directory.glob(f"*{PARTIAL}"):
        shutil.rmtree(place)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """The states of the generators that a step may draw from."""
    out = {"cpu": torch.get_rng_state()}
    return {**out, "device": torch.cuda.get_rng_state(device)} if device.type == "cuda" else out


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
