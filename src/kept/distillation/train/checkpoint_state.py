"""The JSON files of a run's checkpoint: the state that is not tensors, and the sums of the other files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic import Field

from kept.checkpoint.json_file import read_json
from kept.checkpoint.json_model import JsonModel
from kept.distillation.train.progress import GroupState
from kept.errors import CheckpointError, reason

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

FORMAT = 3
"""Version of the checkpoint layout; incremented with every change of it."""

SUMS, STATE = "sums.json", "state.json"
"""Files with the sha256 of every other file, and with the state that is not tensors."""


class RandomState(JsonModel):
    """The states of the CPU's and the device's random generators, in hexadecimal."""

    cpu: str
    device: str | None = None


class RunState(JsonModel):
    """The state of a run that is not tensors."""

    step: int
    groups: dict[str, GroupState]
    random: RandomState


class CheckpointFormat(JsonModel):
    """The version of a checkpoint, which every version has."""

    format: int


class CheckpointFile(RunState, CheckpointFormat):
    """`state.json`: the state of a run, the number of ranks, and the number of updates of each parameter."""

    ranks: int
    updates: dict[str, float]


class CheckpointSums(JsonModel):
    """`sums.json`: the sha256 of every other file, by its name."""

    __pydantic_extra__: dict[str, str] = Field(init=False)


def read_state(place: Path) -> CheckpointFile:
    """Return the state of a checkpoint. Raises ValueError if it is of another version or form."""
    plain = read_json(place / STATE)
    version = CheckpointFormat.checked(plain).format
    if version != FORMAT:
        raise ValueError(f"its format is {version}, this version reads {FORMAT}")
    return CheckpointFile.checked(plain)


def damaged(place: Path, why: str) -> CheckpointError:
    """Return the error for a checkpoint whose files are not as they were written."""
    return CheckpointError(f"{place}: is damaged ({why}); remove it to resume from the checkpoint before it")


def random_state(device: torch.device) -> RandomState:
    """Return the states of the random generators."""
    cpu = _hexadecimal(torch.get_rng_state())
    if device.type == "cuda":
        return RandomState(cpu=cpu, device=_hexadecimal(torch.cuda.get_rng_state(device)))
    return RandomState(cpu=cpu)


def set_random_state(place: Path, state: RandomState, device: torch.device) -> None:
    """Restore the generators from the state in a checkpoint. Raises CheckpointError if it is no generator's."""
    try:
        torch.set_rng_state(_bytes(state.cpu))
        if device.type == "cuda" and state.device is not None:
            torch.cuda.set_rng_state(_bytes(state.device), device)
    except (RuntimeError, ValueError) as error:
        raise damaged(place, f"{STATE}: random: {reason(error)}") from None


def _hexadecimal(state: Tensor) -> str:
    return bytes(state.tolist()).hex()


def _bytes(state: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(state)), dtype=torch.uint8)
