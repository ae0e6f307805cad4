"""Small files are written atomically and leave no temporary files."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from kept.checkpoint.small_files import check_writable, locked_part, write_whole
from kept.errors import OutputError


def many(file: Path, letter: bytes) -> None:
    for _ in range(100):
        write_whole(file, letter * 10_000)


def test_a_file_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"longer than what follows")
    write_whole(tmp_path / "a", b"short")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"short")]


def test_what_a_killed_process_had_begun_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".a.part").write_bytes(b"half of what was to be there")
    write_whole(tmp_path / "a", b"whole")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"whole")]


def test_two_processes_that_write_the_same_wait_for_each_other(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    both = [context.Process(target=many, args=(tmp_path / "a", letter)) for letter in (b"x", b"y")]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert [one.exitcode for one in both] == [0, 0]
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() in {b"x" * 10_000, b"y" * 10_000}


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_interrupted_it_leaves_the_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    write_whole(tmp_path / "a", b"before")

    def fails(_: int) -> None:
        raise error

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises(error):
        write_whole(tmp_path / "a", b"after")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a", b"before")]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / ".a.part").symlink_to(tmp_path / "theirs")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(tmp_path / "a", b"mine")
    assert (tmp_path / "theirs").read_bytes() == b"theirs"


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    check_writable(tmp_path / "new" / "deep" / "file")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("name", ["/proc/x", "/dev/null/x", 255 * "x"])
def test_a_place_that_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"cannot be written.*(free space or permissions|choose another place)"):
        check_writable(tmp_path / name)


def test_a_home_that_no_shell_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"begins with ~, which stands for no directory here; write the whole path"):
        check_writable(Path("~/out/model"))
    (tmp_path / "~").mkdir()
    check_writable(Path("~/out/model"))


def test_one_process_builds_a_file(tmp_path: Path) -> None:
    target = tmp_path / "new" / "model.gguf"
    with locked_part(target) as part:
        with pytest.raises(OutputError, match="another run is writing it"), locked_part(target):
            pass
        part.write_bytes(b"whole")
        part.rename(target)
    with pytest.raises(OutputError, match="exists already"), locked_part(target):
        pass
    assert [(file.name, file.read_bytes()) for file in target.parent.iterdir()] == [("model.gguf", b"whole")]


def test_an_interrupted_file_is_removed(tmp_path: Path) -> None:
    def interrupted() -> None:
        with locked_part(tmp_path / "a") as part:
            part.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [*tmp_path.iterdir()] == []
