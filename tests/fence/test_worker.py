"""The fence enforces its limits on time, memory, files and network; after any failure the next call works."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kept.errors import CheckpointError
from kept.fence import FenceError, Limits, Worker

LIMITS = Limits(seconds=5, memory=256 << 20)


def worker(*arguments: object, limits: Limits = LIMITS) -> Worker:
    return Worker("fence_target:Target", *arguments, limits=limits)


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a child that can import the target; the real child is isolated from the environment."""
    monkeypatch.setattr("kept.fence.worker.CHILD", [sys.executable, str(Path(__file__).parent / "fence_child.py")])


def test_a_call_returns_json_and_bytes() -> None:
    reply = worker("name").call("both", [1, "\ud800", None])
    assert reply.value == ["name", [1, "\ud800", None]]
    assert reply.data == b"\x00bytes"


def test_state_lives_from_call_to_call() -> None:
    one = worker("name")
    assert [one.call("count").value for _ in range(3)] == [1, 2, 3]


def test_large_messages_pass_both_ways() -> None:
    text = "é" * (3 << 20)
    assert worker("name").call("both", text).value == ["name", text]
    assert len(worker("name").call("zeros", 50 << 20).data) == 50 << 20


def test_the_json_of_a_reply_has_a_bound_of_its_own() -> None:
    one = worker("name", limits=Limits(seconds=5, memory=256 << 20, text=1000))
    assert one.call("both", "x" * 900).value == ["name", "x" * 900]
    with pytest.raises(FenceError, match=r"its reply is invalid: a message of \d+ bytes, more than 1000"):
        one.call("both", "x" * 1000)
    assert len(one.call("zeros", 1 << 20).data) == 1 << 20


def test_an_error_of_ours_is_itself_again() -> None:
    one = worker("name")
    with pytest.raises(CheckpointError, match=r"^file: is wrong; mend it$"):
        one.call("refuse")
    assert one.call("count").value == 1


def test_any_other_error_is_one_line() -> None:
    one = worker("name")
    with pytest.raises(FenceError, match=r"^of a library$"):
        one.call("fail")
    with pytest.raises(FenceError, match=r"^KeyError$|^'x'$"):
        one.call("lookup")
    assert one.call("count").value == 1


def test_an_error_while_it_is_made_is_told_at_each_call() -> None:
    one = worker("wrong")
    for _ in range(2):
        with pytest.raises(FenceError, match="no such name"):
            one.call("count")


@pytest.mark.parametrize("method", ["sleep", "spin"])
def test_time_is_bounded(method: str) -> None:
    one, began = worker("name"), time.monotonic()
    with pytest.raises(FenceError, match=r"takes more than 0.5 seconds"):
        one.call(method, seconds=0.5)
    assert time.monotonic() - began < 20, "not a minute"
    assert one.call("count").value == 1


def test_memory_is_bounded() -> None:
    one = worker("name")
    with pytest.raises(FenceError, match="needs more than 256 MB of memory"):
        one.call("zeros", 1 << 30)
    assert one.call("count").value == 1


def test_a_crash_is_an_error() -> None:
    one = worker("name")
    with pytest.raises(FenceError, match=r"crashed .SIGSEGV"):
        one.call("crash")
    assert one.call("count").value == 1


def test_a_child_that_closes_its_pipe_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kept.fence.worker.ENDING", 0.1)
    one, began = worker("name"), time.monotonic()
    with pytest.raises(FenceError, match="does not respond"):
        one.call("hang_up")
    assert time.monotonic() - began < 20, "not a minute"
    assert one.call("count").value == 1


@pytest.mark.parametrize("text", ["3", "null", "[]", '["value"]', "{}", '{"message": 3}', "{", "[" * 50_000])
def test_an_answer_of_another_form_is_an_error(text: str) -> None:
    one = worker("name")
    with pytest.raises(FenceError, match="its reply is"):
        one.call("lie", text)
    assert one.call("count").value == 1


def test_it_gets_no_secret_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    found = worker("name").call("environment").value
    assert "secret" not in str(found)
    assert found["RAYON_NUM_THREADS"] == "1"


def test_no_file_is_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"as it was")
    for method in ("write", "remove"):
        with pytest.raises(FenceError):
            worker("name").call(method, str(file))
    with pytest.raises(FenceError):
        worker("name").call("write", str(tmp_path / "other"))
    assert [f.read_bytes() for f in tmp_path.iterdir()] == [b"as it was"]


def test_no_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.raises(FenceError):
        worker("name").call("connect", server.getsockname()[1])


@pytest.mark.parametrize("method", ["signal", "fork", "socket", "mode", "limit"])
def test_nothing_beyond_it_is_reached(method: str) -> None:
    one = worker("name")
    with pytest.raises(FenceError, match="ermission denied"):
        one.call(method)
    assert one.call("thread").value == "done"


def test_what_a_library_prints_is_no_reply(capfd: pytest.CaptureFixture[str]) -> None:
    assert worker("name").call("say").value == "said"
    assert capfd.readouterr() == ("", "")


def test_it_ends_with_its_owner() -> None:
    one = worker("name")
    process = one.call("process").value
    one.close()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_it_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_worker import worker; import kept.fence.worker as w, time\n"
        f"w.CHILD = [sys.executable, {str(Path(__file__).parent / 'fence_child.py')!r}]\n"
        "one = worker('name'); print(one.call('process').value, flush=True); one.call('spin', seconds=1)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    end = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(process: int) -> bool:
    try:
        os.kill(process, signal.SIGCONT)
    except ProcessLookupError:
        return False
    return True
