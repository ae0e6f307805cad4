"""Healing runs in this process and in others: killed, on several ranks, on a disk without room."""

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.distillation.settings import HealSettings
from support.forks import forks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from multiprocessing.process import BaseProcess

STEPS = 12


def settings(pair: tuple[Path, Path], corpus: Path, out: Path, **changes: Any) -> HealSettings:
    """A short run of a student and the teacher that it was made of."""
    sizes = {
        "batch_size": 4,
        "sequence_length": 32,
        "tokens": STEPS * 4 * 32,
        "eval_every": 4,
        "save_every": 5,
        "learning_rate": 1e-2,
    }
    given = {"student": str(pair[1]), "teacher": str(pair[0]), "data": (str(corpus),), "out": str(out), **sizes}
    return HealSettings(**{**given, **changes})


def folder_of(out: Path) -> Path:
    """Return the directory of a run's metrics and checkpoints."""
    return out.with_name(f".{out.name}.kept-healing")


def noted(out: Path, kind: str = "step") -> list[dict[str, Any]]:
    """A run's metrics of a kind, with the values of the student, without how long they took."""
    lines = map(json.loads, (folder_of(out) / "metrics.jsonl").read_text().splitlines())
    return [_of_student(line) for line in lines if line["kind"] == kind]


def _of_student(line: dict[str, Any]) -> dict[str, Any]:
    groups = line.get("groups", [])
    own = groups["student"] if isinstance(groups, dict) else {}
    return {**{key: value for key, value in line.items() if key not in {"tokens_per_second", "groups"}}, **own}


def losses(out: Path) -> list[float]:
    """The loss of each step; a step that was noted twice would be in it twice."""
    found = noted(out)
    assert [line["step"] for line in found] == [*range(1, len(found) + 1)]
    return [line["loss"] for line in found]


def start(given: HealSettings, dies: str | None = None, ranks: int = 1, limit: int | None = None) -> list[BaseProcess]:
    """A run on some ranks. `dies` names a moment (see `kill_at`), `limit` is the largest file that can be written."""
    port = _free_port()
    processes: list[BaseProcess] = [
        forks().Process(target=_heal, args=(given.to_dict(), _variables(rank, ranks, port), dies, limit))
        for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def start_ranks(function: Callable[..., None], ranks: int, *given: Any) -> list[BaseProcess]:
    """Processes that call a function as ranks of one run. An importable module must define it."""
    port = _free_port()
    processes: list[BaseProcess] = [
        forks().Process(target=_as_rank, args=(function, _variables(rank, ranks, port), given)) for rank in range(ranks)
    ]
    for process in processes:
        process.start()
    return processes


def _as_rank(function: Callable[..., None], variables: Mapping[str, str], given: tuple[Any, ...]) -> None:
    import torch

    torch.set_num_threads(1)
    os.environ.update(variables)
    function(*given)


def start_meeting() -> list[BaseProcess]:
    """Two ranks whose device gives up after a second, and of which the first is later than that."""
    return start_ranks(_meet_late, 2)


def _meet_late() -> None:
    from functools import partial

    import torch.distributed as dist

    from kept.distillation.train.process_group import process_group

    dist.init_process_group = partial(dist.init_process_group, timeout=timedelta(seconds=1))
    with process_group("cpu") as mine:
        if mine.is_first:
            time.sleep(2.5)
        mine.barrier()


def finish(processes: list[BaseProcess]) -> list[int | None]:
    """Wait for all ranks. Where one has died, the others are ended, as torchrun does."""
    for process in processes:
        process.join()
        if process.exitcode:
            for other in processes:
                other.kill()
    return [process.exitcode for process in processes]


def _variables(rank: int, ranks: int, port: int) -> Mapping[str, str]:
    meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ours = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    cache = {key: os.environ[key] for key in ("XDG_CACHE_HOME",) if key in os.environ}
    return {**ours, **meeting, **cache}


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return int(opened.getsockname()[1])


def _heal(given: dict[str, Any], variables: Mapping[str, str], dies: str | None, limit: int | None) -> None:
    import torch

    from kept.commands.heal import run_heal
    from kept.errors import KeptError

    torch.set_num_threads(1)
    os.environ.update(variables)
    if dies is not None:
        kill_at(dies)
    if limit is not None:
        no_file_beyond(limit)
    try:
        run_heal(HealSettings(**given))
    except KeptError as error:
        Path(f"{given['out']}.error").write_text(str(error), encoding="utf-8")
        sys.exit(error.exit_code)


def kill_at(moment: str) -> None:
    """Have this process kill itself: `step 7`, before a checkpoint is whole, has its name, or the next is begun."""
    from kept.distillation.train.run_checkpoints import RunCheckpoints
    from kept.distillation.train.trainer import Trainer

    def die(*_: Any, **__: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    word, _, number = moment.partition(" ")
    if word == "step":
        original = Trainer._update

        def update(self: Trainer) -> Any:
            return die() if self.step == int(number) else original(self)

        Trainer._update = update  # type: ignore[method-assign]
        return
    method = {"writing": "_write", "named": "_name"}[word]
    saved = getattr(RunCheckpoints, method)

    def save(self: RunCheckpoints, place: Path, *given: Any) -> Any:
        if not place.name.startswith(f"step-{int(number):08}"):
            return saved(self, place, *given)
        if word == "writing":
            place.mkdir()
            (place / "rank-00000-of-00001.safetensors").write_bytes(bytes(100))
        return die()

    setattr(RunCheckpoints, method, save)


def no_file_beyond(limit: int) -> None:
    """No file may grow beyond `limit` bytes, which is what a full disk looks like to a writer."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
