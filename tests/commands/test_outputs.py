"""A command replaces only its own earlier output; copied files equal the files that were read."""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

import kept
from kept.checkpoint.output_path import check_replaceable
from kept.cli.root import main
from kept.errors import CheckpointError, OutputError
from reported import EVALUATION, RECORD, write, write_output
from support.stored import write_readable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_readable(tmp_path / "source", "llama")


def complaint(*arguments: object) -> str:
    """Return the line that a command prints when it exits with 2."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# ---------------------------------------------------------------------------------------------------------------- files


def test_a_page_replaces_pages_alone(tmp_path: Path) -> None:
    out = write_output(tmp_path / "out", RECORD)
    evaluation = write(tmp_path / "eval.html", EVALUATION)
    page = tmp_path / "page.html"
    for _ in range(2):
        kept.report(out, page, evaluations=[evaluation])
    before = contents(tmp_path)
    os.link(evaluation, tmp_path / "hard.html")
    (tmp_path / "link.html").symlink_to(page)
    (tmp_path / "mine.html").write_text("<!doctype html>mine")
    os.mkfifo(tmp_path / "pipe.html")
    for name, said in (
        ("eval.html", "is evaluation 1 .*, which is read"),
        ("hard.html", "is evaluation 1 .*, which is read"),
        ("link.html", "is not a regular file"),
        ("pipe.html", "is not a regular file"),
        ("mine.html", "was not written by this command"),
        ("out/kept.json", "lies in a checkpoint"),
        ("out/config.json", "lies in a checkpoint"),
        ("out/new.json", "lies in a checkpoint"),
    ):
        with pytest.raises(OutputError, match=said):
            kept.report(out, tmp_path / name, evaluations=[evaluation])
    assert {name: content for name, content in contents(tmp_path).items() if name in before} == before


def test_an_evaluation_replaces_evaluations_alone(source: Path, tmp_path: Path) -> None:
    text, data = tmp_path / "text.json", tmp_path / "data"
    text.write_text("A text. " * 300)
    data.mkdir()
    os.link(text, tmp_path / "hard.json")
    (tmp_path / "link.json").symlink_to(tmp_path / "new.json")
    other = write(tmp_path / "other.json", {"models": []})
    before = contents(tmp_path)
    for name, said in (
        ("text.json", "which is read"),
        ("hard.json", "which is read"),
        ("link.json", "is not a regular file"),
        (other.name, "was not written by this command"),
        ("source/config.json", "lies in a checkpoint"),
        ("source/eval.json", "lies in a checkpoint"),
        ("data/eval.json", "lies inside input 2"),
    ):
        asked = ("eval", source, "--text", text, "--data", data, "--results", tmp_path / "results")
        line = complaint(*asked, "--out", tmp_path / name)
        assert said in line
        assert not (tmp_path / "results").exists(), "said before anything is measured"
    assert contents(tmp_path) == before


def test_an_evaluation_is_written_again(source: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("A text. " * 300)
    out = tmp_path / "eval.json"
    for _ in range(2):
        asked = ["eval", source, "--text", tmp_path / "text", "--results", tmp_path / "results", "--out", out, "--json"]
        result = CliRunner().invoke(main, [str(one) for one in asked])
        assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["rows"]


def test_a_file_is_ours_or_it_is_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    check_replaceable(file, {}, lambda _: False)
    file.touch()
    check_replaceable(file, {}, lambda _: True)
    with pytest.raises(OutputError, match="was not written by this command"):
        check_replaceable(file, {}, lambda _: False)


# ---------------------------------------------------------------------------------------------------------- directories


@pytest.mark.parametrize(
    "asked",
    [
        ("tokenizer", "train", "{data}", "--out", "{data}/new", "--vocab-size", "300"),
        ("tokenizer", "train", "{data}", "--like", "{source}", "--out", "{source}/new", "--vocab-size", "300"),
        ("tokenizer", "merge", "{source}", "{source}", "--out", "{source}/new"),
        ("heal", "{source}", "--sequence-length", "64", "--loss", "ce", "--data", "{data}", "--out", "{data}/new"),
        ("heal", "{source}", "--sequence-length", "64", "--loss", "ce", "--data", "{data}", "--out", "{source}/new"),
        ("cache-teacher", "{source}", "--data", "{data}", "--out", "{data}/new"),
        ("cache-teacher", "{source}", "--data", "{data}", "--out", "{source}/new"),
        ("convert", "{source}", "{source}/new"),
        ("expand", "{source}", "{source}/new", "--tokenizer", "{source}"),
    ],
    ids=lambda asked: " ".join(asked[:2]),
)
def test_a_directory_inside_what_is_read(source: Path, tmp_path: Path, asked: tuple[str, ...]) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.txt").write_text("Seven ships sailed. " * 200)
    before = contents(tmp_path)
    line = complaint(*(word.format(source=source, data=data) for word in asked))
    assert "new: lies inside " in line
    assert line.endswith("choose a place outside of it")
    assert contents(tmp_path) == before


def test_a_cache_is_not_written_through_a_link(tmp_path: Path) -> None:
    from kept.distillation.data.directory_cache import cached

    (tmp_path / "other").mkdir()
    (tmp_path / ".a.part").symlink_to("other")
    with pytest.raises(OutputError, match=r"\.a\.part: is a symbolic link"):
        cached(tmp_path, "a", lambda folder: (folder / "x").touch())
    (tmp_path / ".b.lock").symlink_to("other/lock")
    with pytest.raises(OutputError, match="cannot be written"):
        cached(tmp_path, "b", lambda folder: (folder / "x").touch())
    assert [*(tmp_path / "other").iterdir()] == []


# --------------------------------------------------------------------------------------------------------- copied files


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "LICENSE", "generation_config.json"])
def test_a_companion_that_changes_meanwhile(
    source: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Size and mtime stay equal; only the hash differs."""
    file = source / name
    file.write_bytes(file.read_bytes() if file.exists() else b"{}" if name.endswith("json") else b"A licence.\n")
    monkeypatch.setattr("kept.output.export.write_weights", _changing(file))
    with pytest.raises(CheckpointError, match=rf"{name}: changed during the run; nothing was written"):
        kept.convert(source, tmp_path / "out", "llama", verify_tokens=0)
    assert not (tmp_path / "out").exists()


def _changing(file: Path) -> Callable[..., Any]:
    from kept.output.write_files import write_weights

    def write_and_change(*given: Any) -> Any:
        before = file.stat()
        file.write_bytes(file.read_bytes()[:-1] + b" ")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.stat().st_size == before.st_size
        return write_weights(*given)

    return write_and_change


def test_a_companion_that_disappears_meanwhile(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kept.output.write_files import write_weights

    def write_and_remove(*given: Any) -> Any:
        (source / "tokenizer.json").unlink()
        return write_weights(*given)

    monkeypatch.setattr("kept.output.export.write_weights", write_and_remove)
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: disappeared during the run"):
        kept.convert(source, tmp_path / "out", "llama", verify_tokens=0)
    shutil.rmtree(source)
