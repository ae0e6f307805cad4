"""Functions run on several ranks of a gloo group, each a process on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

if TYPE_CHECKING:
    from collections.abc import Callable


def run(function: Callable[..., Any], ranks: int, *given: Any) -> list[Any]:
    """Return the results of `function(rank, *given)` on each rank. An importable module must define the function."""
    with tempfile.TemporaryDirectory() as directory:
        spawn(_rank, (ranks, directory, function, given), nprocs=ranks)
        return [torch.load(Path(directory) / str(rank), weights_only=True) for rank in range(ranks)]


def _rank(rank: int, ranks: int, directory: str, function: Callable[..., Any], given: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{directory}/meeting", rank=rank, world_size=ranks)
    try:
        torch.save(function(rank, *given), Path(directory) / str(rank))
    finally:
        distributed.destroy_process_group()
