"""`kept convert --dry-run`: files and sizes before anything is written."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from support.command_line import complains, data, succeeds

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("options", [[], ["--max-shard-size", "50KB"], ["--dtype", "bfloat16"], ["--norm", "opm"]])
def test_a_dry_run_says_what_is_then_written(orion: Path, tmp_path: Path, options: list[str]) -> None:
    target = tmp_path / "made" / "out"
    said = data("convert", orion, target, *options, "--dry-run")
    assert [*tmp_path.iterdir()] == []
    record = data("convert", orion, target, *options, "--verify-tokens", "0")
    sizes = {file.name: file.stat().st_size for file in target.iterdir()}
    assert said["files"] == {name: size for name, size in sizes.items() if name not in {"README.md", "kept.json"}}
    assert said["bytes"] == sum(said["files"].values()) < said["free"]
    assert (said["promise"], said["out"]) == (record["promise"], str(target))
    assert "nothing was written" in succeeds("convert", orion, tmp_path / "other", "--dry-run").stdout


def test_a_dry_run_finds_what_is_wrong(orion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "exists already" in complains("convert", orion, tmp_path, "--dry-run")
    assert "lies inside the source" in complains("convert", orion, orion / "out", "--dry-run")
    assert "needs text" in complains("convert", orion, tmp_path / "out", "--norm", "calibrated", "--dry-run")
    monkeypatch.setattr("kept.commands.convert.disk_usage", lambda _: SimpleNamespace(free=1000))
    said = complains("convert", orion, tmp_path / "out", "--dry-run")
    assert re.fullmatch(rf"{tmp_path}/out: needs \d+ bytes, {tmp_path} has 1000 free", said)
    assert [*tmp_path.iterdir()] == []
