"""Processes that are forked from one that has imported everything, so that most of their time is work."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.context import ForkServerContext

PRELOADED = (
    "kept.commands.convert",
    "kept.commands.heal_run",
    "kept.distillation.train.load_backbone",
    "kept.distillation.train.run_checkpoints",
    "kept.distillation.train.trainer",
    "kept.verification.verify",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.utils.tensorboard",
    "transformers",
)
"""Modules that conversions and healing import."""


def forks() -> ForkServerContext:
    """The context of such processes. A test process has one server, which starts with its first fork."""
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload([*PRELOADED])
    return made


def command(*words: object, first: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    """Return the result of `kept WORDS` in a process of its own, in which `first` runs before anything else."""
    return _captured(_kept, [str(word) for word in words], first)


def torchrun(ranks: int, *words: object) -> subprocess.CompletedProcess[str]:
    """Return the result of `torchrun -m kept WORDS`. Only the launcher is a fork; each rank is a new interpreter."""
    return _captured(_torchrun, [f"--nproc-per-node={ranks}", "-m", "kept", *map(str, words)])


def _captured(
    main: Callable[[list[str]], None], words: list[str], first: Callable[[], None] | None = None
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryDirectory() as directory:
        streams = [Path(directory) / name for name in ("stdout", "stderr")]
        child = forks().Process(target=_run, args=(main, words, [str(file) for file in streams], first))
        child.start()
        child.join()
        stdout, stderr = (file.read_text(encoding="utf-8") for file in streams)
    assert child.exitcode is not None
    return subprocess.CompletedProcess(words, child.exitcode, stdout, stderr)


def _run(
    main: Callable[[list[str]], None], words: list[str], streams: list[str], first: Callable[[], None] | None
) -> None:
    for number, file in enumerate(streams, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    if first is not None:
        first()
    main(words)


def _kept(words: list[str]) -> None:
    from kept.cli.start import main

    sys.argv = ["kept", *words]
    main()


def _torchrun(words: list[str]) -> None:
    from torch.distributed.run import main

    main(["--standalone", *words])
