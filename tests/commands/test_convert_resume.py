"""Conversions that are repeated, interrupted, killed, or whose source changes meanwhile."""

from __future__ import annotations

import random
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest
import torch

import kept
from kept.checkpoint.staging import JOURNAL, Staging
from kept.errors import CheckpointError
from kept.output import export, input_files, write_files
from support.forks import forks
from support.models import write_checkpoint
from support.stored import (
    PROSE,
    all_bytes,
    change_json,
    split_into_shards,
    write_readable,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def orion(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "orion", "orion")


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_readable(tmp_path_factory.mktemp("sources") / "my-orion", "orion")


def hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}.kept-partial")


# ------------------------------------------------------------------------------------------------- again, and resumed


def test_two_runs_write_the_same_bytes(readable: Path, tmp_path: Path) -> None:
    first, second = (
        kept.convert(readable, tmp_path / name, max_shard_size="100KB", verify_tokens=64).path for name in ("a", "b")
    )
    assert all_bytes(first) == all_bytes(second)


def interrupted(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
    """A conversion that is stopped when all weights are written."""
    with monkeypatch.context() as patched:
        patched.setattr(export, "verify_staged", _stops)
        with pytest.raises(KeyboardInterrupt):
            kept.convert(source, target, **options)
    assert not target.exists()


def _stops(*_: Any) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_run_continues(orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "out"
    interrupted(orion, target, monkeypatch, max_shard_size="100KB")
    before = {file.name: file.stat().st_mtime_ns for file in hidden(target).glob("*.safetensors")}
    assert len(before) > 3
    kept.convert(orion, target, max_shard_size="100KB")
    assert {file.name: file.stat().st_mtime_ns for file in target.glob("*.safetensors")} == before
    whole = kept.convert(orion, tmp_path / "whole", max_shard_size="100KB").path
    assert all_bytes(target) == all_bytes(whole)


@pytest.mark.parametrize("what", ["another option", "the weights", "the config", "the version"])
def test_what_changed_meanwhile_is_begun_anew(
    orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    target = tmp_path / "out"
    options: dict[str, Any] = {}
    interrupted(orion, target, monkeypatch)
    if what == "another option":
        options["norm"] = "opm"
    elif what == "the weights":
        shutil.copy(write_checkpoint(tmp_path / "other", "orion", seed=1) / "model.safetensors", orion)
    elif what == "the config":
        change_json(orion / "config.json", hidden_act="relu2")
    else:
        monkeypatch.setattr(input_files, "version", lambda _: "99")
    done = kept.convert(orion, target, **options)
    fresh = kept.convert(orion, tmp_path / "fresh", **options)
    assert all_bytes(done.path) == all_bytes(fresh.path)


def test_a_calibration_text_that_changed_is_begun_anew(
    readable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "my.txt"
    text.write_text(PROSE, encoding="utf-8")
    options: dict[str, Any] = {"norm": "calibrated", "text": str(text), "verify_tokens": 64}
    interrupted(readable, tmp_path / "out", monkeypatch, **options)
    text.write_text(PROSE.upper() + "0123456789", encoding="utf-8")
    done = kept.convert(readable, tmp_path / "out", **options)
    fresh = kept.convert(readable, tmp_path / "fresh", **options)
    assert all_bytes(done.path) == all_bytes(fresh.path)


def test_an_interruption_does_not_wait_for_sums(orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    summed: list[Path] = []

    def slow(file: Path, progress: Any = None) -> str:
        if progress is None:  # small files are hashed before anything is written
            return ""
        progress(1 << 40)  # the writer is far behind
        summed.append(file)
        return ""

    def fails(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(write_files, "digest", slow)
    monkeypatch.setattr(Staging, "write_shard", fails)
    with pytest.raises(KeyboardInterrupt):
        kept.convert(split_into_shards(orion, 8), tmp_path / "out")
    assert not summed


# ---------------------------------------------------------------------------------------------- what changes meanwhile


@pytest.mark.parametrize("what", ["written to", "replaced", "gone", "the config"])
def test_a_source_that_changes_during_the_run_is_named(
    orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    file = orion / ("config.json" if what == "the config" else "model.safetensors")
    original = write_files.write_weights

    def meanwhile(*args: Any) -> Any:
        written = original(*args)
        if what == "gone":
            file.unlink()
        elif what == "replaced":
            shutil.copy(write_checkpoint(tmp_path / "other", "orion", seed=1) / file.name, file)
        else:
            with file.open("r+b") as opened:
                opened.write(opened.read(1))
        return written

    monkeypatch.setattr(export, "write_weights", meanwhile)
    with pytest.raises(CheckpointError, match=rf"{file.name}: (changed|disappeared) during the run; nothing was writ"):
        kept.convert(orion, tmp_path / "out", verify_tokens=0)
    assert not (tmp_path / "out").exists()
    assert not hidden(tmp_path / "out").exists(), "no later run can use it"


@pytest.mark.parametrize("error", [CheckpointError("bad"), RuntimeError("a mistake of ours"), MemoryError()])
@pytest.mark.parametrize("finished", [False, True])
def test_what_is_left_of_a_failed_run_is_what_the_next_can_use(
    orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, *, finished: bool
) -> None:
    def fails(*_: Any) -> None:
        raise error

    target = tmp_path / "out"
    options: dict[str, Any] = {"max_shard_size": "100KB", "verify_tokens": 64}
    with monkeypatch.context() as patched:
        patched.setattr(export, "verify_staged", fails)
        if not finished:
            patched.setattr(Staging, "write_shard", fails)
        with pytest.raises(type(error)):
            kept.convert(orion, target, **options)
    assert hidden(target).exists() == (finished and not isinstance(error, CheckpointError))
    kept.convert(orion, target, **options)


# --------------------------------------------------------------------------------------------------------------- killed

KILLS = 5


def convert_killably(source: str, target: str) -> None:
    """Code that a child process runs."""
    torch.set_num_threads(1)
    kept.convert(source, target, max_shard_size="20KB", verify_tokens=64)


def kill_when(source: Path, target: Path, files: int) -> bool:
    """Run a conversion and kill it once so many files are finished; whether it was killed in time."""
    run = forks().Process(target=convert_killably, args=(str(source), str(target)))
    run.start()
    while run.is_alive():
        if hidden(target).is_dir() and len([*hidden(target).iterdir()]) >= files:
            run.kill()
            break
        time.sleep(0.0005)
    run.join()
    return run.exitcode == -signal.SIGKILL


def test_a_killed_command_continues_to_the_same_bytes(tmp_path: Path) -> None:
    source = split_into_shards(write_checkpoint(tmp_path / "orion", "orion"), 3)
    target = tmp_path / "killed"
    whole = kept.convert(source, tmp_path / "whole", max_shard_size="20KB", verify_tokens=64).path
    total = len([*whole.iterdir()])
    assert total > 25
    moments = sorted(random.Random(5).sample(range(1, total), KILLS))
    killed = [kill_when(source, target, files) for files in moments]
    assert sum(killed) >= KILLS - 1, f"of {moments}, {killed}"
    assert not target.exists()
    assert (hidden(target) / JOURNAL).exists()
    convert_killably(str(source), str(target))
    assert all_bytes(target) == all_bytes(whole)
    assert not hidden(target).exists()
