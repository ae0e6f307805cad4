"""Killed at any moment, the same command ends with the bytes of a run that nothing interrupted.

The command runs in forks of one process that has imported everything, so that most of a kill's time is conversion.
"""

from __future__ import annotations

import os
import random
import signal
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import kept
from kept.checkpoint.staging import JOURNAL
from support.forks import command, forks
from support.heal_runs import no_file_beyond
from support.models import write_checkpoint
from support.small_disk import mounted, small_file_system
from support.stored import all_bytes, split_into_shards

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.process import BaseProcess

pytestmark = pytest.mark.slow

KILLS = 4
"""`make kills` kills 200 times."""

SHARD = "20KB"

TOKENS = 8


def convert(source: str, target: str) -> None:
    """Code that a child process runs: the whole conversion with its verification."""
    import torch

    torch.set_num_threads(1)
    kept.convert(source, target, max_shard_size=SHARD, verify_tokens=TOKENS)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return split_into_shards(write_checkpoint(tmp_path_factory.mktemp("source") / "orion", "orion"), 3)


def start(source: Path, target: Path) -> BaseProcess:
    run = forks().Process(target=convert, args=(str(source), str(target)))
    run.start()
    return run


def duration(source: Path, target: Path) -> tuple[float, float]:
    """Seconds of a whole run, and of its part from the first byte on."""
    begun = time.monotonic()
    run = start(source, target)
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


def test_killed_at_random_moments_the_same_command_ends_with_the_same_bytes(source: Path, tmp_path: Path) -> None:
    duration(source, tmp_path / "first")  # which imports what is not preloaded
    longest, writing = duration(source, tmp_path / "whole")
    wanted = all_bytes(tmp_path / "whole")
    chance = random.Random(7)
    killed = unfinished = 0
    for number in count():
        target = tmp_path / f"killed-{number // 2}"  # each output is killed twice
        run = start(source, target)
        if number % 3:
            wait_for_the_first_byte(run, target)
        run.join(chance.uniform(0, writing if number % 3 else longest))
        run.kill()
        run.join()
        killed += run.exitcode == -signal.SIGKILL
        unfinished += hidden(target).exists()
        if number % 2:
            again = start(source, target)
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
    target, whole = tmp_path / "killed", tmp_path / "whole"
    run = forks().Process(target=killed_at, args=(where, str(source), str(target)))
    run.start()
    run.join()
    assert run.exitcode == -signal.SIGKILL
    options = ("--max-shard-size", SHARD, "--verify-tokens", "0")
    again = command("convert", source, target, *options)
    assert again.returncode == (0 if where == "before the name" else 2), again.stderr
    assert again.returncode == 0 or "exists already" in again.stderr
    kept.convert(source, whole, max_shard_size=SHARD, verify_tokens=0)
    assert all_bytes(target) == all_bytes(whole)


def killed_at(where: str, source: str, target: str) -> None:
    """A child's conversion that kills itself before the output is named, or before the journal is removed."""
    before_name = where == "before the name"
    method = "rename" if before_name else "unlink"
    original = getattr(Path, method)

    def dies(self: Path, *args: Any, **named: Any) -> Any:
        if self.name.endswith(".kept-partial") if before_name else self.name == JOURNAL:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, *args, **named)

    setattr(Path, method, dies)
    kept.convert(source, target, max_shard_size=SHARD, verify_tokens=0)


# --------------------------------------------------------------------------------------------------------- a full disk


def limited() -> None:
    """No file may grow beyond 40 KB, which is what a full disk looks like to a writer."""
    no_file_beyond(40_000)


def test_a_disk_without_room_is_one_line_and_exit_code_2(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out"
    run = command("convert", source, target, "--verify-tokens", "0", first=limited)
    assert run.returncode == 2
    assert run.stderr.splitlines()[-1:] == [
        f"kept: {target}: cannot be written (File too large); free space or permissions?"
    ]
    assert not target.exists()
    assert not hidden(target).exists(), "no shard was finished"
    kept.convert(source, target, verify_tokens=0)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KB."""
    with small_file_system(tmp_path / "disk", "256k") as place:
        yield place


def test_a_full_disk_keeps_what_is_finished_until_there_is_room(source: Path, small_disk: Path) -> None:
    target = small_disk / "out"
    run = command("convert", source, target, "--verify-tokens", "0", "--max-shard-size", SHARD)
    assert run.returncode == 2
    assert f"kept: {target}: cannot be written (No space left on device)" in run.stderr
    assert not target.exists()
    before = {file.name: file.stat().st_mtime_ns for file in hidden(target).glob("*.safetensors")}
    assert before
    assert mounted("-o", "remount,size=8m", small_disk)
    kept.convert(source, target, verify_tokens=0, max_shard_size=SHARD)
    after = {file.name: file.stat().st_mtime_ns for file in target.glob("*.safetensors")}
    assert {name: after[name] for name in before} == before, "they were not written again"


def test_a_target_that_is_read_only_is_one_line_and_exit_code_2(source: Path, small_disk: Path) -> None:
    assert mounted("-o", "remount,ro", small_disk)
    run = command("convert", source, small_disk / "out", "--verify-tokens", "0")
    assert run.returncode == 2
    line = f"kept: {small_disk}/out: cannot be written (Read-only file system); free space or permissions?"
    assert run.stderr.splitlines()[-1] == line
