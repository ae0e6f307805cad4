"""Run code that a model wrote in a process that can only compute and read Python's libraries.

A program shares its interpreter with its tests, as in other harnesses for such benchmarks, so a program that is written
to cheat can pass them. It cannot pass by accident, and it cannot affect the machine (see `jail.isolate`).
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
"""Limit of CPU time in seconds; the limit of wall-clock time is twice as much."""

MEGABYTES = 1024

JAIL = [sys.executable, "-I", "-m", "kept.evaluation.jail"]


def passes(program: str, seconds: int = SECONDS, megabytes: int = MEGABYTES) -> bool:
    """Return whether a Python program finishes within the limits and without an error.

    Success is a random token that the process reads from a pipe and returns only after the program has finished.
    """
    expected = secrets.token_bytes(TOKEN)
    with _written(program) as file, _pipe(expected) as token:
        limits = map(str, (token, seconds, megabytes, os.getpid()))
        with subprocess.Popen(  # noqa: S603 - allowed by --execute
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
    """Yield the descriptor of an unnamed file with the program, at its beginning."""
    with TemporaryFile(prefix="kept-", buffering=0) as file:
        file.write(program.encode(errors="replace"))
        file.seek(0)
        yield file.fileno()


@contextmanager
def _pipe(content: bytes) -> Iterator[int]:
    """Yield the reading end of a pipe that holds `content`, at most a few bytes."""
    end, begin = os.pipe()
    os.write(begin, content)
    os.close(begin)
    try:
        yield end
    finally:
        os.close(end)


def _answer(pipe: int, seconds: float) -> bytes:
    """Return the bytes of a pipe until it is closed or time is up, at most one byte more than a token."""
    found, end, poll = b"", time.monotonic() + seconds, select.poll()
    poll.register(pipe, select.POLLIN)
    while len(found) <= TOKEN and poll.poll(max(0, 1000 * (end - time.monotonic()))):
        part = os.read(pipe, TOKEN + 1 - len(found))
        if not part:
            break
        found += part
    return found


RUNS = "import bisect, collections, datetime, decimal, functools, hashlib, heapq, itertools, json, math, random, re"
"""A program that imports common modules; if it fails, the sandbox itself does not work."""

BREAKS = {
    "other processes": "import os, resource\ntry: os.kill({parent}, 0)\nexcept OSError: resource.prlimit({parent}, 0)",
    "new processes": "import os\nif not os.fork(): os._exit(0)",
    "the network": "import socket; socket.create_connection(('127.0.0.1', {port}), 1)",
    "local sockets": "import socket; socket.socket(socket.AF_UNIX).connect({abstract!r})",
    "writing files": "import os\ntry: os.utime({file!r})\nexcept OSError: open({file!r}, 'w').close()",
    "reading files": "open({file!r}).close()",
    "memory": "bytearray({bytes})",
}
"""Programs that pass only if a protection is missing, by what they reach."""


def fences(*, unsafe: bool = False) -> dict[str, bool]:
    """Test which protections hold on this system.

    Raises InputError if no program runs at all and, unless `unsafe`, if a protection is missing.
    """
    if not passes(RUNS):
        raise InputError("humaneval: the process for generated code does not start; is kept installed in this Python?")
    found = _tried()
    missing = ", ".join(bound for bound, holds in found.items() if not holds)
    if missing and not unsafe:
        raise InputError(
            f"humaneval: this system does not keep generated code from {missing}; use Linux 5.13 or later with "
            "seccomp and Landlock, or --unsafe on a disposable machine"
        )
    return found


def _tried() -> dict[str, bool]:
    name = f"\0kept-{secrets.token_hex(8)}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local, _user_file() as file:
        if sys.platform == "linux":
            local.bind(name)
            local.listen()
        port = server.getsockname()[1]
        given = {"parent": os.getpid(), "port": port, "abstract": name, "file": file, "bytes": 2 * MEGABYTES << 20}
        return {bound: not passes(program.format(**given)) for bound, program in BREAKS.items()}


@contextmanager
def _user_file() -> Iterator[str]:
    """Yield the path of a file of the user that a program must not reach."""
    with NamedTemporaryFile(prefix="kept-") as file:
        yield file.name
