"""Code that a model wrote, run apart: a process of its own that can only compute and read Python's library.

A program shares its interpreter with its tests, as in every harness for such benchmarks: one that is written to cheat
can make them say anything. It cannot pass by accident, and it can do nothing to the machine (see `jail.isolate`).
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import TYPE_CHECKING

from kept.errors import InputError
from kept.evaluation.jail import TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

SECONDS = 5
"""Of processor time; the wall clock may show twice as much."""

MEGABYTES = 1024

JAIL = [sys.executable, "-I", "-m", "kept.evaluation.jail"]


def passes(program: str, seconds: int = SECONDS, megabytes: int = MEGABYTES) -> bool:
    """Whether a Python program runs to its end, within limits, without an error.

    What it answers is a token that it cannot guess, and that waits in a pipe until it has ended.
    """
    expected = secrets.token_bytes(TOKEN)
    with _written(program) as file, _pipe(expected) as token:
        limits = map(str, (token, seconds, megabytes, os.getpid()))
        with subprocess.Popen(  # noqa: S603 - this is what was asked for with --execute
            [*JAIL, *limits], env={}, cwd="/", stdin=file, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            pass_fds=[token], start_new_session=True,
        ) as process:  # fmt: skip
            assert process.stdout is not None
            try:
                return secrets.compare_digest(_answer(process.stdout.fileno(), 2 * seconds), expected)
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def _written(program: str) -> Iterator[int]:
    """A file without a name that holds the program."""
    with TemporaryFile(prefix="kept-", buffering=0) as file:
        file.write(program.encode(errors="replace"))
        file.seek(0)
        yield file.fileno()


@contextmanager
def _pipe(content: bytes) -> Iterator[int]:
    """The reading end of a pipe that holds a few bytes."""
    end, begin = os.pipe()
    os.write(begin, content)
    os.close(begin)
    try:
        yield end
    finally:
        os.close(end)


def _answer(pipe: int, seconds: float) -> bytes:
    """What a pipe has until it is closed or the time is over; no more than a byte past a token."""
    found, end, poll = b"", time.monotonic() + seconds, select.poll()
    poll.register(pipe, select.POLLIN)
    while len(found) <= TOKEN and poll.poll(max(0, 1000 * (end - time.monotonic()))):
        part = os.read(pipe, TOKEN + 1 - len(found))
        if not part:
            break
        found += part
    return found


RUNS = "import bisect, collections, datetime, decimal, functools, hashlib, heapq, itertools, json, math, random, re"
"""A program that must pass, or no other can."""

BREAKS = {
    "other processes": "import os, resource\ntry: os.kill({parent}, 0)\nexcept OSError: resource.prlimit({parent}, 0)",
    "new processes": "import os\nif not os.fork(): os._exit(0)",
    "the network": "import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
    "local sockets": "import socket; socket.socket(socket.AF_UNIX).connect({abstract!r})",
    "writing files": "import os\ntry: os.utime({file!r})\nexcept OSError: open({file!r}, 'w').close()",
    "reading files": "open({file!r}).close()",
    "memory": "bytearray({bytes})",
}
"""Programs that pass where a bound does not hold, by what they reach."""


def fences(*, unsafe: bool = False) -> dict[str, bool]:
    """Which bounds hold on this system: tried, not assumed.

    Raises InputError where no program runs at all and, but for `unsafe`, where a bound does not hold.
    """
    if not passes(RUNS):
        raise InputError("humaneval: the process for generated code does not start; is kept installed in this Python?")
    found = _tried()
    missing = ", ".join(bound for bound, holds in found.items() if not holds)
    if missing and not unsafe:
        raise InputError(
            f"humaneval: this system does not keep generated code from {missing}; run it on Linux 5.13 or later with "
            "seccomp and Landlock, or, on a machine that may be lost, with --unsafe"
        )
    return found


def _tried() -> dict[str, bool]:
    name = f"\0kept-{secrets.token_hex(8)}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local, _someones() as file:
        if sys.platform == "linux":
            local.bind(name)
            local.listen()
        port = server.getsockname()[1]
        given = {"parent": os.getpid(), "port": port, "abstract": name, "file": file, "bytes": 2 * MEGABYTES << 20}
        return {bound: not passes(program.format(**given)) for bound, program in BREAKS.items()}


@contextmanager
def _someones() -> Iterator[str]:
    """A file of the user's that is not to be reached."""
    with NamedTemporaryFile(prefix="kept-") as file:
        yield file.name
