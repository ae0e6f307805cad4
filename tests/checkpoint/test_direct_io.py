"""Writing past the page cache: the same bytes and sum whatever their length, and whatever the system does not offer."""

from __future__ import annotations

import errno
import fcntl
import os
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kept.checkpoint import direct_io
from kept.checkpoint.direct_io import ALIGNED, DIRECT, PIECE, PIECES, Output, set_direct

if TYPE_CHECKING:
    from pathlib import Path

SMALL = 2 * ALIGNED
"""A piece with which few bytes are many pieces."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(direct_io, "PIECE", SMALL)


def written(path: Path, parts: list[bytes]) -> str:
    with Output(path) as out:
        for part in parts:
            out.write(part)
        return out.finish()


def offers_direct_writes(folder: Path) -> bool:
    with (folder / "probe").open("wb") as file:
        return set_direct(file.fileno(), on=True)


LENGTHS = [0, 1, ALIGNED - 1, ALIGNED, ALIGNED + 1, PIECE - 1, PIECE, PIECE + 1, PIECES * PIECE, PIECES * PIECE + 5]


@pytest.mark.parametrize("length", LENGTHS)
def test_the_file_holds_the_bytes_and_the_sum_is_theirs(tmp_path: Path, length: int) -> None:
    data = Random(0).randbytes(length)
    assert written(tmp_path / "x", [data]) == sha256(data).hexdigest()
    assert (tmp_path / "x").read_bytes() == data


@given(lengths=st.lists(st.integers(0, 3 * SMALL), max_size=12))
def test_any_parts(tmp_path_factory: pytest.TempPathFactory, lengths: list[int]) -> None:
    path = tmp_path_factory.mktemp("any") / "x"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(direct_io, "PIECE", SMALL)
        chance = Random(len(lengths))
        parts = [chance.randbytes(length) for length in lengths]
        assert written(path, parts) == sha256(b"".join(parts)).hexdigest()
    assert path.read_bytes() == b"".join(parts)


@pytest.mark.usefixtures("small")
def test_memory_is_filled_in_place(tmp_path: Path) -> None:
    data = Random(0).randbytes(5 * SMALL + 7)
    with Output(tmp_path / "x") as out:
        rest = data
        while rest:
            room = out.room()[:1000]
            count = min(len(room), len(rest))
            room[:count] = rest[:count]
            out.fill(count)
            rest = rest[count:]
        out.finish()
    assert (tmp_path / "x").read_bytes() == data


@pytest.mark.usefixtures("small")
def test_all_but_the_end_goes_past_the_page_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not offers_direct_writes(tmp_path):
        pytest.skip("this file system has no direct writes")
    calls: list[tuple[bool, int]] = []
    original = os.write

    def noted(opened: int, data: memoryview) -> int:
        calls.append((bool(fcntl.fcntl(opened, fcntl.F_GETFL) & DIRECT), len(data)))
        return original(opened, data)

    monkeypatch.setattr(os, "write", noted)
    written(tmp_path / "x", [bytes(2 * SMALL + ALIGNED + 3)])
    assert calls == [(True, SMALL), (True, SMALL), (True, ALIGNED), (False, 3)]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("what", ["no flag", "the flag is refused", "writes are refused", "writes stop halfway"])
def test_where_the_system_does_not_offer_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    asked, write, control = [0], os.write, fcntl.fcntl

    def refused(opened: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL and flags & DIRECT:
            asked[0] += 1
            raise OSError(errno.EINVAL, "no direct writes here")
        return control(opened, command, flags)

    def picky(opened: int, data: memoryview) -> int:
        if control(opened, fcntl.F_GETFL) & DIRECT:
            asked[0] += 1
            if what == "writes are refused" or len(data) % ALIGNED:
                raise OSError(errno.EINVAL, "not like this")
            return write(opened, data[:ALIGNED])
        return write(opened, data[:1000])

    if what == "no flag":
        monkeypatch.setattr(direct_io, "DIRECT", 0)
    elif what == "the flag is refused":
        monkeypatch.setattr(fcntl, "fcntl", refused)
    else:
        monkeypatch.setattr(os, "write", picky)
    data = Random(0).randbytes(3 * SMALL + 17)
    assert written(tmp_path / "x", [data]) == sha256(data).hexdigest()
    assert (tmp_path / "x").read_bytes() == data
    assert asked[0] or what == "no flag" or not offers_direct_writes(tmp_path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("at", [0, 1, 5, 50])
def test_a_write_that_fails_is_raised_to_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Before the next piece is filled, or at the end; nobody waits for memory that never comes back."""
    calls, original = [0], os.write

    def full(opened: int, data: memoryview) -> int:
        calls[0] += 1
        if calls[0] > at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(opened, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        written(tmp_path / "x", [bytes(SMALL)] * 60)
    assert calls[0] <= at + PIECES + 1, "it stopped soon"


@pytest.mark.usefixtures("small")
def test_no_thread_is_left(tmp_path: Path) -> None:
    out = Output(tmp_path / "x")
    out.write(bytes(10 * SMALL))
    out.__exit__(KeyboardInterrupt)
    with pytest.raises(RuntimeError):
        out._hashing.submit(print)
    with pytest.raises(ValueError, match="closed"):
        out._file.fileno()
