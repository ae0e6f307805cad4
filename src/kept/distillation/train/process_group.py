"""The processes of a run: one, or those that torchrun started."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist

from kept.device import AUTO, torch_device
from kept.errors import InputError, KeptError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Result = TypeVar("Result")


BARRIER_TIMEOUT = timedelta(days=1)
"""Enough for rank 0 to write and to verify the largest model while the other ranks wait."""


@dataclass(frozen=True)
class Ranks:
    """This process's rank, the number of processes, and the device that this process computes on."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes files and shows progress."""
        return self.rank == 0

    def row_range(self, rows: int) -> range:
        """Return the rows of a batch of `rows` that this rank computes; may be empty."""
        each = -(-rows // self.world_size)
        return range(min(rows, self.rank * each), min(rows, (self.rank + 1) * each))

    def barrier(self) -> None:
        """Wait for all ranks, up to a day: a barrier of the device's own backend times out after minutes."""
        group = dist.new_group(backend="gloo", timeout=BARRIER_TIMEOUT)
        dist.barrier(group)
        dist.destroy_process_group(group)

    def on_first(self, action: Callable[[], Result]) -> Result | None:
        """Run `action` on rank 0 while the others wait. Returns its result on rank 0, None elsewhere.

        A KeptError is raised on every rank.
        """
        result, failure = None, [None]  # type: Result | None, list[KeptError | None]
        if self.is_first:
            try:
                result = action()
            except KeptError as error:
                failure = [error]
        self.barrier()
        dist.broadcast_object_list(failure, device=torch.device("cpu"))
        if failure[0] is not None:
            raise failure[0]
        return result

    def broadcast(self, value: Result) -> Result:
        """Return rank 0's value on every rank."""
        values = [value]
        dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]

    def gather(self, value: Result) -> list[Result]:
        """Return the values of all ranks, in the order of the ranks."""
        values: list[Any] = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value)
        return values

    def sum(self, *values: float) -> list[float]:
        """Return the sum of each value over all ranks, in float64."""
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return sums.tolist()


def local_device(device: str = AUTO) -> torch.device:
    """Return the device of this process. Each local rank has its own GPU.

    Raises InputError if there is no such GPU, or if several processes are to share the GPU that `device` numbers.
    """
    found = torch_device(device)
    if found.type == "cpu" or (found.index is not None and "LOCAL_RANK" not in os.environ):
        return found
    if found.index is not None:
        raise InputError(f"device: is {device}, but torchrun gives each process a GPU of its own; give cuda or auto")
    return torch_device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")


@contextmanager
def process_group(device: str = AUTO) -> Iterator[Ranks]:
    """Initialise torch's default process group: the processes that torchrun started, else this one alone."""
    rank, world_size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    own = local_device(device)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    # The gloo backend carries the messages of checkpoints, which are written in the background.
    backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
    store = None if world_size > 1 else dist.HashStore()  # type: ignore[attr-defined] # torch's stubs
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size)
    try:
        yield Ranks(rank, world_size, own)
    finally:
        dist.destroy_process_group()
