"""Checkpoints of a run: written while it goes on, whole or not at all, by any number of ranks for any other.

A checkpoint is a directory of safetensors and JSON, and nothing in it is unpickled. Each rank writes the rows that it
holds into a file of its own; the rows of all ranks, in order, are the whole tensors. The directory gets its name when
every file is on the disk.
"""

from __future__ import annotations

import shutil
import stat
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from kept.checkpoint.direct import Output
from kept.checkpoint.disk import sync_directory, write_whole
from kept.checkpoint.header import read_header
from kept.checkpoint.json_file import read_json
from kept.checkpoint.stream import digest, raw
from kept.checkpoint.writer import Shard, to_json
from kept.distillation.folder import PARTIAL, remove
from kept.distillation.parallel import fill, local
from kept.errors import CheckpointError, OutputError, reason
from kept.ir.tensors import Given, Lazy, join
from kept.stated import mapped, number, text, whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor, nn
    from torch.optim import Optimizer

    from kept.distillation.parallel import Ranks

FORMAT = 1
"""Raised when the same run would be stored in another way."""

SUMS, STATE = "sums.json", "state.json"

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW holds for each parameter, beside the number of its updates."""

OLD = ".metadata"
"""A file that checkpoints of earlier versions have: a pickle."""


@dataclass(frozen=True)
class Rest:
    """What a run remembers beside what learns and its optimiser: plain data, and the best weights so far, whole."""

    plain: Mapping[str, Any]
    best: Mapping[str, Tensor]


@dataclass
class States:
    """The checkpoints of one run under a directory, `step-00000100` and so on; the newest two are kept."""

    directory: Path
    ranks: Ranks
    keep: int = 2
    _writing: tuple[Path, Future[None]] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        """Make a group for the checkpoints: they are agreed on by other threads, while the run sends its own."""
        self._saving = ThreadPoolExecutor(1)
        self._group = dist.new_group(backend="gloo")

    def newest(self) -> Path | None:
        """The last that was finished."""
        found = sorted(self.directory.glob("step-*[0-9]"))
        return found[-1] if found else None

    def begin(self, step: int, learning: Mapping[str, nn.Parameter], optimiser: Optimizer, rest: Rest) -> None:
        """Begin to write the parameters that learn and their optimiser; the run may go on.

        Raises OutputError where the checkpoint before could not be written.
        """
        self.settle()
        place = self.directory / f"step-{step:08}{PARTIAL}"
        tensors = {**_learned(learning, optimiser), **self._share(rest.best)}
        copies = {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
        plain = {"format": FORMAT, "ranks": self.ranks.count, "updates": _updates(learning, optimiser), **rest.plain}
        self._writing = place, self._saving.submit(self._save, place, copies, plain)

    def settle(self) -> None:
        """Wait for what is being written. Raises OutputError where the disk refused."""
        if self._writing is None:
            return
        (place, saved), self._writing = self._writing, None
        wait([saved])  # the first rank has heard of what the others could not write
        self.ranks.once(lambda: self._result(place, saved))

    def _share(self, best: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This rank's part of what every rank has."""
        begin, stop = self.ranks.number, self.ranks.number + 1
        cut = {name: [len(t) * edge // self.ranks.count for edge in (begin, stop)] for name, t in best.items()}
        return {f"best/{name}": best[name][first:last] for name, (first, last) in cut.items()}

    def _save(self, place: Path, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Write this rank's file; the first rank gives the checkpoint its name when all have."""
        told: list[Any] = [None] * self.ranks.count
        dist.all_gather_object(told, self._write(place, tensors), group=self._group)
        failed = next((reason for _, reason in told if reason), None)
        if failed is not None:
            raise OSError(failed)
        if self.ranks.first:
            sums = {_part(rank, self.ranks.count): found for rank, (found, _) in enumerate(told)}
            self._name(place, plain, sums)

    def _write(self, place: Path, tensors: Mapping[str, Tensor]) -> tuple[str, str]:
        """Write this rank's file. Returns its sha256, or why it cannot be written, which the others must hear."""
        shard = Shard(_part(self.ranks.number, self.ranks.count), tuple((n, _given(t)) for n, t in tensors.items()))
        try:
            place.mkdir(parents=True, exist_ok=True)
            with Output(place / shard.name) as out:
                out.write(shard.header())
                for tensor in tensors.values():
                    out.write(raw(tensor))
                return out.finish(), ""
        except OSError as error:
            return "", reason(error)

    def _name(self, place: Path, plain: Mapping[str, Any], sums: Mapping[str, str]) -> None:
        """Write what is not tensors, and give the checkpoint its name."""
        write_whole(place / STATE, to_json(plain))
        write_whole(place / SUMS, to_json({**sums, STATE: digest(place / STATE)}))
        sync_directory(place)
        final = place.with_name(place.name.removesuffix(PARTIAL))
        remove(final)
        place.rename(final)
        sync_directory(self.directory)
        for old in sorted(self.directory.glob("step-*[0-9]"))[: -self.keep]:
            remove(old)

    @torch.no_grad()
    def load(self, place: Path, learning: Mapping[str, nn.Parameter], optimiser: Optimizer) -> Rest:
        """Read a checkpoint into parameters and their optimiser. Returns what `begin` was given as `rest`.

        Raises CheckpointError where a file is not as it was written, or is of an earlier version.
        """
        self.ranks.once(lambda: _check(place))
        try:
            plain = read_json(place / STATE)
            if whole(plain["format"]) != FORMAT:
                raise _damaged(place, f"it is of format {plain['format']}, this version reads {FORMAT}")
            held = _held(place, whole(plain["ranks"]))
            updates = mapped(plain["updates"])
            for name, parameter in learning.items():
                fill(parameter, _shaped(held, f"weights/{name}", parameter))
                if name in updates:
                    optimiser.state[parameter] = _moments(held, name, parameter, number(updates[name]))
            best = {name.removeprefix("best/"): lazy.read() for name, lazy in held.items() if name.startswith("best/")}
        except (LookupError, TypeError, ValueError) as error:
            raise _damaged(place, f"{STATE}: {error!r}") from None
        return Rest(plain, best)

    def _result(self, place: Path, saved: Future[None]) -> None:
        try:
            saved.result()
        except OSError as error:
            shutil.rmtree(place, ignore_errors=True)
            raise OutputError(
                f"{place}: a checkpoint cannot be written ({reason(error)}); free space or permissions?"
            ) from error


def _part(rank: int, count: int) -> str:
    """The file of a rank."""
    return f"rank-{rank:05}-of-{count:05}.safetensors"


def _given(tensor: Tensor) -> Given:
    assert tensor.dtype == torch.float32, "what learns is float32"
    return Given(tuple(tensor.shape), "F32", tensor)


def _learned(learning: Mapping[str, nn.Parameter], optimiser: Optimizer) -> dict[str, Tensor]:
    """The rows that this rank holds: of what learns, and of its moments, once there are any."""
    out: dict[str, Tensor] = {}
    for name, parameter in learning.items():
        out[f"weights/{name}"] = local(parameter)
        state = optimiser.state.get(parameter, {})
        out |= {f"{kind}/{name}": local(state[kind]) for kind in MOMENTS if kind in state}
    return out


def _updates(learning: Mapping[str, nn.Parameter], optimiser: Optimizer) -> dict[str, float]:
    """How often each parameter was updated."""
    states = {name: optimiser.state.get(parameter, {}) for name, parameter in learning.items()}
    return {name: float(state["step"]) for name, state in states.items() if "step" in state}


def _moments(held: Mapping[str, Lazy], name: str, parameter: nn.Parameter, updates: float) -> dict[str, Tensor]:
    """AdamW's state of a parameter."""
    out = {"step": torch.tensor(updates, dtype=torch.float32, device=parameter.device)}
    for kind in MOMENTS:
        out[kind] = torch.zeros_like(parameter)
        fill(out[kind], _shaped(held, f"{kind}/{name}", parameter))
    return out


def _held(place: Path, ranks: int) -> dict[str, Lazy]:
    """Every tensor of a checkpoint: the rows of all ranks, joined."""
    parts: dict[str, list[Lazy]] = {}
    for rank in range(ranks):
        for name, tensor in read_header(place / _part(rank, ranks)):
            parts.setdefault(name, []).append(tensor)
    if odd := next((name for name, rows in parts.items() if len({one.shape[1:] for one in rows}) > 1), None):
        raise ValueError(f"{odd} has rows of several lengths")
    return {name: join(rows) for name, rows in parts.items()}


def _shaped(held: Mapping[str, Lazy], name: str, parameter: Tensor) -> Lazy:
    """A tensor of a checkpoint. Raises ValueError where it has not the parameter's shape."""
    found = held[name]
    if found.shape != tuple(parameter.shape):
        raise ValueError(f"{name} is {found.shape}, the model's is {tuple(parameter.shape)}")
    return found


def _check(place: Path) -> None:
    """Raise CheckpointError unless a checkpoint's files are those that were written."""
    if (place / OLD).exists():
        raise CheckpointError(
            f"{place}: is a checkpoint of an earlier version, which runs code when it is read; remove {place.parent} "
            "to begin anew, or finish the run with that version"
        )
    try:
        wanted = {text(name): text(value) for name, value in read_json(place / SUMS).items()}
        found = {file.name: _sum(file) for file in place.iterdir() if file.name != SUMS}
    except (OSError, CheckpointError, TypeError) as error:
        raise _damaged(place, reason(error)) from None
    changed = sorted(name for name in {**found, **wanted} if found.get(name) != wanted.get(name))
    if changed:
        raise _damaged(place, f"{', '.join(changed)}: not as written")


def _sum(file: Path) -> str | None:
    """The sha256 of a file; None for a link, a pipe, or whatever else is none."""
    return digest(file) if stat.S_ISREG(file.lstat().st_mode) else None


def _damaged(place: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{place}: is no whole checkpoint ({why}); remove it to go on from the one before")


def random_state(device: torch.device) -> dict[str, str]:
    """The states of the generators that a step may draw from, in hexadecimal."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["device"] = torch.cuda.get_rng_state(device)
    return {name: bytes(state.tolist()).hex() for name, state in states.items()}


def set_random_state(states: Mapping[str, Any], device: torch.device) -> None:
    """Put the generators where `random_state` found them. Raises LookupError, TypeError or ValueError for others."""
    try:
        torch.set_rng_state(_bytes(states["cpu"]))
        if device.type == "cuda" and "device" in states:
            torch.cuda.set_rng_state(_bytes(states["device"]), device)
    except RuntimeError as error:
        raise ValueError(reason(error)) from None


def _bytes(state: object) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text(state))), dtype=torch.uint8)
