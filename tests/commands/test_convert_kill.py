"""Killed at any moment, the same command ends with the bytes of a run that nothing interrupted.

The command runs in forks of one process that has imported everything, so that most of a kill's time is conversion.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import signal
import subprocess
import sys
import time
from itertools import count
from typing import TYPE_CHECKING

import pytest

from kept.checkpoint.staging import JOURNAL
from support.models import write_checkpoint
from support.stored import all_bytes, split_into_shards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess
    from pathlib import Path

KILLS = 30

SHARD = "20KB"

TOKENS = 8


def convert(source: str, target: str) -> None:
    """What a child runs: the whole conversion with its verification."""
    import torch

    import kept

    torch.set_num_threads(1)
    kept.convert(source, target, shard_size=SHARD, verify_tokens=TOKENS)


@pytest.fixture(scope="module")
def forks() -> ForkServerContext:
    made = multiprocessing.get_context("forkserver")
    made.set_forkserver_preload(
        ["torch", "transformers", "kept.commands.convert", "kept.verification.verify", "test_kill"]
    )
    return made


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_into_shards(write_checkpoint(tmp_path_factory.mktemp("source") / "orion", "orion"), 3)


def start(forks: ForkServerContext, source: Path, target: Path) -> BaseProcess:
    run = forks.Process(target=convert, args=(str(source), str(target)))
    run.start()
    return run


def duration(forks: ForkServerContext, source: Path, target: Path) -> tuple[float, float]:
    """Seconds of a whole run, and of its part from the first byte on."""
    begun = time.monotonic()
    run = start(forks, source, target)
    wait_for_the_first_byte(run, target)
    writing = time.monotonic()
    run.join()
    assert run.exitcode == 0
    return time.monotonic() - begun, time.monotonic() - writing


def wait_for_the_first_byte(run: BaseProcess, target: Path) -> None:
    while run.is_alive() and not hidden(target).exists():
        time.sleep(0.001)


def hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}.kept-partial")


def test_killed_at_random_moments_the_same_command_ends_with_the_same_bytes(
    forks: ForkServerContext, source: Path, tmp_path: Path
) -> None:
    duration(forks, source, tmp_path / "first")  # which imports what is not preloaded
    longest, writing = duration(forks, source, tmp_path / "whole")
    wanted = all_bytes(tmp_path / "whole")
    chance = random.Random(7)
    killed = unfinished = 0
    for number in count():
        target = tmp_path / f"killed-{number // 2}"  # each output is killed twice
        run = start(forks, source, target)
        if number % 3:
            wait_for_the_first_byte(run, target)
        run.join(chance.uniform(0, writing if number % 3 else longest))
        run.kill()
        run.join()
        killed += run.exitcode == -signal.SIGKILL
        unfinished += hidden(target).exists()
        if number % 2:
            again = start(forks, source, target)
            again.join()
            assert target.exists(), "finished by this run or, if the kill came too late, by the one before"
            (target / JOURNAL).unlink(missing_ok=True)
            assert all_bytes(target) == wanted
            assert not hidden(target).exists()
            if killed >= KILLS and unfinished >= KILLS // 3:
                return
        assert number < 5 * KILLS, "the moments were too late to show anything"


@pytest.mark.parametrize("where", ["before the name", "before the journal goes"])
def test_killed_while_it_gets_its_name(source: Path, tmp_path: Path, where: str) -> None:
    """The two moments that chance would not find."""
    step = "pathlib.Path.rename" if where == "before the name" else "pathlib.Path.unlink"
    guard = "self.name.endswith('.kept-partial')" if where == "before the name" else f"self.name == {JOURNAL!r}"
    code = f"""
import os, pathlib, signal, sys, kept
original = {step}
def dies(self, *args, **named):
    if {guard}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(self, *args, **named)
{step} = dies
kept.convert(sys.argv[1], sys.argv[2], shard_size={SHARD!r}, verify_tokens=0)
"""
    target, whole = tmp_path / "killed", tmp_path / "whole"
    run = subprocess.run([sys.executable, "-c", code, str(source), str(target)], check=False, capture_output=True)
    assert run.returncode == -signal.SIGKILL, run.stderr.decode()
    command = [sys.executable, "-m", "kept", "convert", str(source), "--shard-size", SHARD, "--verify-tokens", "0"]
    again = subprocess.run([*command, str(target)], check=False, capture_output=True, text=True)
    assert again.returncode == (0 if where == "before the name" else 2)
    assert again.returncode == 0 or "exists already" in again.stderr
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    assert all_bytes(target) == all_bytes(whole)


# --------------------------------------------------------------------------------------------------------- a full disk


def limited(limit: int) -> None:
    """No file may grow beyond `limit` bytes, which is what a full disk looks like to a writer."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def test_a_disk_without_room_is_one_line_and_exit_code_2(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    command = [sys.executable, "-m", "kept", "convert", str(source), str(target), "--verify-tokens", "0"]
    run = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        preexec_fn=lambda: limited(40_000),
    )
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1:] == [
        f"kept: {target}: cannot be written (File too large); free space or permissions?"
    ]
    assert not target.exists()
    assert not hidden(target).exists(), "no shard was finished"
    subprocess.run(command, check=True, capture_output=True)


def mounted(*words: object) -> bool:
    return subprocess.run(["mount", *map(str, words)], check=False, capture_output=True).returncode == 0  # noqa: S607


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.getuid() or not mounted("-t", "tmpfs", "-o", "size=256k", "none", place):
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)  # noqa: S607


def test_a_full_disk_keeps_what_is_finished_until_there_is_room(source: Path, small_disk: Path) -> None:
    target = small_disk / "out"
    options = ["--verify-tokens", "0", "--shard-size", SHARD]
    command = [sys.executable, "-m", "kept", "convert", str(source), str(target), *options]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 2
    assert f"kept: {target}: cannot be written (No space left on device)" in run.stderr
    assert not target.exists()
    before = {file.name: file.stat().st_mtime_ns for file in hidden(target).glob("*.safetensors")}
    assert before
    assert mounted("-o", "remount,size=8m", small_disk)
    subprocess.run(command, check=True, capture_output=True)
    after = {file.name: file.stat().st_mtime_ns for file in target.glob("*.safetensors")}
    assert {name: after[name] for name in before} == before, "they were not written again"


def test_a_target_that_is_read_only_is_one_line_and_exit_code_2(source: Path, small_disk: Path) -> None:
    assert mounted("-o", "remount,ro", small_disk)
    command = [sys.executable, "-m", "kept", "convert", str(source), str(small_disk / "out"), "--verify-tokens", "0"]
    run = subprocess.run(command, check=False, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1] == f"kept: {small_disk}/out: cannot be written (Read-only file system)"
