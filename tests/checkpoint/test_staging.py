"""Links planted in the directory of an unfinished output are neither written through nor published."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import kept
from kept.checkpoint.byte_stream import digest
from kept.checkpoint.small_files import no_link, regular, write_whole
from kept.checkpoint.staging import JOURNAL
from kept.errors import OutputError
from support.models import write_checkpoint
from support.stored import all_bytes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "source", "llama")


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text("precious", encoding="utf-8")
    return file


def convert(source: Path) -> Path:
    return kept.convert(source, source.parent / "out", verify_tokens=0).path


@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_an_invalid_journal_is_refused(source: Path, secret: Path, kind: str) -> None:
    stage = source.parent / ".out.kept-partial"
    stage.mkdir()
    match kind:
        case "link":
            (stage / JOURNAL).symlink_to(secret)
        case "pipe":
            os.mkfifo(stage / JOURNAL)
        case "directory":
            (stage / JOURNAL).mkdir()
    with pytest.raises(OutputError, match=r"cannot be written|is in the way"):
        convert(source)
    assert secret.read_text(encoding="utf-8") == "precious"


def test_a_staging_directory_that_is_a_link(source: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (source.parent / ".out.kept-partial").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="is in the way and not from an earlier run"):
        convert(source)
    assert [*(tmp_path / "elsewhere").iterdir()] == []


def test_links_in_an_unfinished_output_are_removed(source: Path, secret: Path, tmp_path: Path) -> None:
    """A shard that the journal lists, a partial file and a directory are links."""
    wanted = all_bytes(convert(source))
    (tmp_path / "out").rename(tmp_path / "first")
    stage = source.parent / ".out.kept-partial"
    stage.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (stage / JOURNAL).write_text(f"{{}}\n{digest(secret)} model.safetensors\n", encoding="utf-8")
    for name in ("model.safetensors", "model.safetensors.part", "config.json.part", "README.md.part"):
        (stage / name).symlink_to(secret)
    (stage / "LICENSES").symlink_to(tmp_path / "elsewhere")
    out = convert(source)
    assert all_bytes(out) == wanted
    assert not any(file.is_symlink() for file in out.iterdir())
    assert secret.read_text(encoding="utf-8") == "precious"
    assert (tmp_path / "elsewhere").is_dir()


def test_a_partial_file_that_is_put_there_meanwhile(tmp_path: Path, secret: Path) -> None:
    (tmp_path / ".notes.part").symlink_to(secret)
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(tmp_path / "notes", b"x")
    assert secret.read_text(encoding="utf-8") == "precious"


def test_what_is_ours_is_opened(tmp_path: Path) -> None:
    with open(tmp_path / "a", "w", encoding="utf-8", opener=no_link) as file:
        file.write("x")
    assert (tmp_path / "a").read_text(encoding="utf-8") == "x"
    with pytest.raises(OSError, match="it is not a regular file"):
        open(os.devnull, "wb", opener=no_link)  # noqa: SIM115 - raises


@pytest.mark.parametrize(("kind", "says"), [("pipe", "it is not a regular file"), ("directory", "Is a directory")])
def test_what_is_read_is_a_file_through_a_link_too(tmp_path: Path, kind: str, says: str) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    (tmp_path / "link").symlink_to("file")
    with open(tmp_path / "link", encoding="utf-8", opener=regular) as file:
        assert file.read() == "x"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    (tmp_path / "other").symlink_to(kind)
    with pytest.raises(OSError, match=says):  # must not block on a pipe without a writer
        open(tmp_path / "other", "rb", opener=regular)  # noqa: SIM115 - raises


def test_an_output_that_is_a_link_loses_nothing(source: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / JOURNAL).write_text("x", encoding="utf-8")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="exists already"):
        convert(source)
    assert (tmp_path / "elsewhere" / JOURNAL).is_file()
