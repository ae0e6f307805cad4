"""Checkpoints of a run: written in the background, atomically, and loadable by any number of ranks.

A checkpoint is a directory of safetensors and JSON files; nothing in it is unpickled. Each rank writes the rows that it
holds to its own file, and the rows of all ranks, concatenated in order, are the full tensors. The directory is renamed
to its final name after every file is on the disk.
"""

from __future__ import annotations

import shutil
import stat
from collections import ChainMap
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from kept.checkpoint.byte_stream import digest, raw
from kept.checkpoint.direct_io import Output
from kept.checkpoint.json_file import read_json, to_json
from kept.checkpoint.safetensors_header import read_header
from kept.checkpoint.safetensors_writer import Shard
from kept.checkpoint.small_files import sync_directory, write_whole
from kept.distillation.train.checkpoint_state import (
    FORMAT,
    STATE,
    SUMS,
    CheckpointFile,
    CheckpointSums,
    RunState,
    damaged,
    read_state,
)
from kept.distillation.train.run_directory import PARTIAL, remove
from kept.distillation.train.shards import fill_shard, is_sharded, local_shard
from kept.errors import CheckpointError, OutputError, reason
from kept.ir.tensors import InMemory, Lazy, join

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from kept.distillation.train.process_group import Ranks

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's optimizer state of each parameter, besides the number of updates."""

OLD = ".metadata"
"""A pickle that checkpoints of earlier versions contain."""


@dataclass(frozen=True)
class TrainerState:
    """The state of a run besides trainable parameters and optimizer: data, and the best weights, unsharded."""

    run: RunState
    best: Mapping[str, Tensor]


@dataclass
class RunCheckpoints:
    """The checkpoints of one run in a directory, named `step-00000100` and so on; the newest `keep` are kept."""

    directory: Path
    ranks: Ranks
    keep: int = 2
    _writing: tuple[Path, Future[None]] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Make a process group for checkpoints: their thread communicates while the run uses the default group."""
        self._saving = ThreadPoolExecutor(1)
        self._group = dist.new_group(backend="gloo")

    def newest(self) -> Path | None:
        """Return the newest finished checkpoint; None if there is none."""
        found = sorted(self.directory.glob("step-*[0-9]"))
        return found[-1] if found else None

    def begin(self, step: int, trainable: Mapping[str, nn.Parameter], optimizer: Optimizer, rest: TrainerState) -> None:
        """Start writing the trainable parameters and the optimizer state in the background.

        Raises OutputError if the previous checkpoint could not be written.
        """
        self.settle()
        place = self.directory / f"step-{step:08}{PARTIAL}"
        tensors = {**_trained(trainable, optimizer), **self._share(rest.best, trainable)}
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        state = CheckpointFile(
            format=FORMAT,
            ranks=self.ranks.world_size,
            updates=dict(ChainMap(*self.ranks.gather(_updates(trainable, optimizer)))),
            step=rest.run.step,
            groups=rest.run.groups,
            random=rest.run.random,
        )
        self._writing = place, self._saving.submit(self._save, place, copies, state)

    def settle(self) -> None:
        """Wait for the checkpoint that is being written. Raises OutputError if it could not be written."""
        if self._writing is None:
            return
        (place, saved), self._writing = self._writing, None
        wait([saved])  # afterwards the first rank knows the errors of all ranks
        self.ranks.on_first(lambda: self._result(place, saved))

    def _share(self, best: Mapping[str, Tensor], trainable: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Return the rows of the best weights that this rank writes.

        Every rank has all rows of a sharded parameter and writes its share; it writes all rows of its own parameters.
        """
        return {
            f"best/{name}": self._own_share(tensor) if is_sharded(trainable[name]) else tensor
            for name, tensor in best.items()
        }

    def _own_share(self, tensor: Tensor) -> Tensor:
        edges = (self.ranks.rank, self.ranks.rank + 1)
        first, last = (len(tensor) * edge // self.ranks.world_size for edge in edges)
        return tensor[first:last]

    def _save(self, place: Path, tensors: Mapping[str, Tensor], state: CheckpointFile) -> None:
        """Write this rank's file; the first rank finishes the checkpoint after all ranks have written theirs."""
        told: list[Any] = [None] * self.ranks.world_size
        dist.all_gather_object(told, self._write(place, tensors), group=self._group)
        failed = next((reason for _, reason in told if reason), None)
        if failed is not None:
            raise OSError(failed)
        if self.ranks.is_first:
            sums = {_part(rank, self.ranks.world_size): found for rank, (found, _) in enumerate(told)}
            self._name(place, state, sums)

    def _write(self, place: Path, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
        """Write this rank's file. Returns its sha256 and an empty string, or an empty string and the error."""
        shard = Shard(_part(self.ranks.rank, self.ranks.world_size), tuple((n, _given(t)) for n, t in tensors.items()))
        try:
            place.mkdir(parents=True, exist_ok=True)
            with Output(place / shard.name) as out:
                out.write(shard.header())
                for tensor in tensors.values():
                    out.write(raw(tensor))
                return out.finish(), ""
        except OSError as error:
            return "", reason(error)

    def _name(self, place: Path, state: CheckpointFile, sums: Mapping[str, str]) -> None:
        """Write the JSON files, rename the checkpoint to its final name and remove old ones."""
        write_whole(place / STATE, to_json(state.table()))
        write_whole(place / SUMS, to_json({**sums, STATE: digest(place / STATE)}))
        sync_directory(place)
        final = place.with_name(place.name.removesuffix(PARTIAL))
        remove(final)
        place.rename(final)
        sync_directory(self.directory)
        for old in sorted(self.directory.glob("step-*[0-9]"))[: -self.keep]:
            remove(old)

    @torch.no_grad()
    def load(self, place: Path, trainable: Mapping[str, nn.Parameter], optimizer: Optimizer) -> TrainerState:
        """Load a checkpoint into parameters and optimizer. Returns the `rest` that `begin` was given.

        Raises CheckpointError if a file was changed since, is of an earlier version, or has other parameters.
        """
        self.ranks.on_first(lambda: _check(place))
        parameters = set(chain(*self.ranks.gather([*trainable])))
        try:
            state = read_state(place)
            held = _held(place, state.ranks)
            for name, parameter in trainable.items():
                fill_shard(parameter, _shaped(held, f"weights/{name}", parameter))
                if name in state.updates:
                    optimizer.state[parameter] = _moments(held, name, parameter, state.updates[name])
            best = _best(held, parameters)
        except ValueError as error:
            raise damaged(place, f"{STATE}: {error}") from None
        return TrainerState(state, {name: best[name].read() for name in trainable})

    def _result(self, place: Path, saved: Future[None]) -> None:
        try:
            saved.result()
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise OutputError(
                f"{place}: a checkpoint cannot be written ({reason(error)}); free space or permissions?"
            ) from error


def _part(rank: int, count: int) -> str:
    """Return the name of a rank's file."""
    return f"rank-{rank:05}-of-{count:05}.safetensors"


def _given(tensor: Tensor) -> InMemory:
    assert tensor.dtype == torch.float32, "trainable parameters and optimizer state are float32"
    return InMemory(tuple(tensor.shape), "F32", tensor)


def _trained(trainable: Mapping[str, nn.Parameter], optimizer: Optimizer) -> dict[str, Tensor]:
    """Return this rank's rows of the trainable parameters and, after the first update, of their AdamW moments."""
    out: dict[str, Tensor] = {}
    for name, parameter in trainable.items():
        out[f"weights/{name}"] = local_shard(parameter)
        state = optimizer.state.get(parameter, {})
        out |= {f"{kind}/{name}": local_shard(state[kind]) for kind in MOMENTS if kind in state}
    return out


def _updates(trainable: Mapping[str, nn.Parameter], optimizer: Optimizer) -> dict[str, float]:
    """Return the number of updates of each parameter."""
    states = {name: optimizer.state.get(parameter, {}) for name, parameter in trainable.items()}
    return {name: float(state["step"]) for name, state in states.items() if "step" in state}


def _moments(held: Mapping[str, Lazy], name: str, parameter: nn.Parameter, updates: float) -> dict[str, Tensor]:
    """Return AdamW's state of a parameter, read from a checkpoint."""
    out = {"step": torch.tensor(updates, dtype=torch.float32, device=parameter.device)}
    for kind in MOMENTS:
        out[kind] = torch.zeros_like(parameter)
        fill_shard(out[kind], _shaped(held, f"{kind}/{name}", parameter))
    return out


def _held(place: Path, ranks: int) -> dict[str, Lazy]:
    """Return every tensor of a checkpoint, concatenated from the rows of all ranks.

    Raises ValueError if the ranks' rows of a tensor differ in shape.
    """
    parts: dict[str, list[Lazy]] = {}
    for rank in range(ranks):
        for name, tensor in read_header(place / _part(rank, ranks)):
            parts.setdefault(name, []).append(tensor)
    if odd := next((name for name, rows in parts.items() if len({one.shape[1:] for one in rows}) > 1), None):
        raise ValueError(f"{odd}: its rows differ in shape between ranks")
    return {name: join(rows) for name, rows in parts.items()}


def _best(held: Mapping[str, Lazy], parameters: Collection[str]) -> dict[str, Lazy]:
    """Return the best weights in a checkpoint. Raises ValueError if they are not those of the parameters of a run."""
    best = {name.removeprefix("best/"): lazy for name, lazy in held.items() if name.startswith("best/")}
    if best.keys() != {*parameters}:
        raise ValueError("its best weights are not the trainable parameters of this run")
    return best


def _shaped(held: Mapping[str, Lazy], name: str, parameter: Tensor) -> Lazy:
    """Return a tensor of a checkpoint. Raises ValueError if its shape differs from the parameter's."""
    found = held.get(name)
    if found is None:
        raise ValueError(f"{name} is missing")
    if found.shape != tuple(parameter.shape):
        raise ValueError(f"{name} has shape {found.shape}, the model's has {tuple(parameter.shape)}")
    return found


def _check(place: Path) -> None:
    """Raise CheckpointError if a checkpoint's files differ from those that were written, or are of an old version."""
    if (place / OLD).exists():
        raise CheckpointError(
            f"{place}: is a checkpoint of an earlier version, a pickle that can run code when it is loaded; remove "
            f"{place.parent} to start over, or finish the run with that version"
        )
    try:
        wanted = CheckpointSums.checked(read_json(place / SUMS)).__pydantic_extra__
        found = {file.name: _sum(file) for file in place.iterdir() if file.name != SUMS}
    except ValueError as error:
        raise damaged(place, f"{SUMS}: {error}") from None
    except (OSError, CheckpointError) as error:
        raise damaged(place, reason(error)) from None
    changed = sorted(name for name in {**found, **wanted} if found.get(name) != wanted.get(name))
    if changed:
        raise damaged(place, f"{', '.join(changed)}: not as written")


def _sum(file: Path) -> str | None:
    """Return the sha256 of a regular file; None for anything else, such as a link or a pipe."""
    return digest(file) if stat.S_ISREG(file.lstat().st_mode) else None
