"""A directory that is made once: never half, never twice."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from kept.checkpoint.small_files import write_whole
from kept.distillation.data.directory_cache import cached, default_cache
from kept.errors import InputError, OutputError

SIZE = 1 << 16


def build(part: Path) -> None:
    (part / "data").write_bytes(b"b" * SIZE)


def build_slowly(part: Path) -> None:
    with (part.parent / "log").open("a") as log:
        log.write("built\n")
    time.sleep(0.3)
    build(part)


def build_half(part: Path) -> None:
    (part / "data").write_bytes(b"a" * SIZE * 2)
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_is_made_is_found_again(tmp_path: Path) -> None:
    found = cached(tmp_path / "deep" / "root", "key", build)
    assert found == tmp_path / "deep" / "root" / "key"
    assert (found / "data").stat().st_size == SIZE

    def never(part: Path) -> None:
        raise AssertionError(part)

    assert cached(tmp_path / "deep" / "root", "key", never) == found
    with pytest.raises(AssertionError):
        cached(tmp_path / "deep" / "root", "other", never)


def test_a_half_written_cache_is_never_picked_up(tmp_path: Path) -> None:
    child = multiprocessing.get_context("fork").Process(target=cached, args=(tmp_path, "key", build_half))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert (tmp_path / ".key.part" / "data").stat().st_size == SIZE * 2, "it was killed in the middle"
    assert not (tmp_path / "key").exists()
    assert (cached(tmp_path, "key", build) / "data").read_bytes() == b"b" * SIZE
    assert not (tmp_path / ".key.part").exists()


def test_two_processes_make_it_once(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    children = [fork.Process(target=cached, args=(tmp_path, "key", build_slowly)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "built\n"
    assert (tmp_path / "key" / "data").stat().st_size == SIZE


def test_what_is_wrong_with_the_input_leaves_nothing(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        build(part)
        raise InputError("a.txt: is not UTF-8")

    with pytest.raises(InputError, match="UTF-8"):
        cached(tmp_path, "key", fail)
    assert not (tmp_path / ".key.part").exists()
    assert not (tmp_path / "key").exists()


def test_a_full_disk(tmp_path: Path) -> None:
    def fail(part: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OutputError, match=r"the cache cannot be written \(No space left on device\)"):
        cached(tmp_path, "key", fail)
    assert not (tmp_path / "key").exists()


def test_an_invalid_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file/root: the cache cannot be written"):
        cached(tmp_path / "file" / "root", "key", build)


def test_a_small_file_is_whole_or_not_there(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", b"one")
    write_whole(tmp_path / "a", b"two")
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"two"


def test_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert default_cache() == Path("/somewhere/kept/tokens")
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert default_cache() == Path.home() / ".cache" / "kept" / "tokens"
