"""Replacing an output: the old one is renamed, and gets its name back if nothing replaces it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kept.checkpoint.backup import replacing
from kept.errors import KeptError, OutputError
from support.command_line import complains, run, succeeds
from support.models import write_checkpoint
from support.stored import all_bytes


def there(place: Path, text: str) -> Path:
    place.mkdir()
    (place / "config.json").write_text(text)
    return place


def test_backups_are_numbered(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for number in range(3):
        with replacing(out, force=True) as backup:
            there(out, str(number))
        assert backup == (tmp_path / f"out.backup-{number}" if number else None)
    assert [(tmp_path / f"out{end}" / "config.json").read_text() for end in (".backup-1", ".backup-2", "")] == [*"012"]


def test_without_force_nothing_moves(tmp_path: Path) -> None:
    out = there(tmp_path / "out", "old")
    with replacing(out, force=False) as backup:
        assert (out / "config.json").read_text() == "old"
    assert backup is None


def test_a_failure_moves_it_back(tmp_path: Path) -> None:
    out = there(tmp_path / "out", "old")
    with pytest.raises(KeptError, match="no"), replacing(out, force=True):
        raise KeptError(f"no{' longer here' * out.exists()}")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_so_does_a_command_that_writes_nothing(tmp_path: Path) -> None:
    out = there(tmp_path / "out", "old")
    with replacing(out, force=True):
        pass
    assert (out / "config.json").read_text() == "old"


@pytest.mark.parametrize("name", ["", "inner", "named"])
def test_inputs_are_not_moved(tmp_path: Path, name: str) -> None:
    out = there(tmp_path / "out", "old")
    path = {"": str(out / ".." / "out"), "inner": str(out / "config.json"), "named": f"english={out / 'config.json'}"}
    with (
        pytest.raises(OutputError, match="which is read; choose another output"),
        replacing(out, force=True, asked=(path[name],)),
    ):
        pytest.fail("it ran")
    assert (out / "config.json").exists()


def test_the_working_directory_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(there(tmp_path / "out", "old"))
    with pytest.raises(OutputError, match="choose another output"), replacing(tmp_path, force=True):
        pytest.fail("it ran")


def test_convert_replaces_and_says_where(tmp_path: Path) -> None:
    source, out = write_checkpoint(tmp_path / "source", "llama"), tmp_path / "out"
    succeeds("convert", source, out, "--verify-tokens", 0)
    before = all_bytes(out)
    assert "exists already" in complains("convert", source, out)
    result = succeeds("convert", source, out, "--to", "same", "--verify-tokens", 0, "--force")
    assert f"{out}: replaced; the old output is now {out}.backup-1" in result.stderr
    assert all_bytes(Path(f"{out}.backup-1")) == before
    assert "which is read" in complains("convert", out, out, "--force")
    assert run("convert", source, out, "--force", "--dry-run").exit_code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "out.backup-1", "source"]
