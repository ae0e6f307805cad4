"""The parent's side of a fenced process: start it, call it, enforce its limits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from kept import errors
from kept.errors import KeptError
from kept.fence.frames import DeadlineExceeded, PipeClosed, read_frame, write_frame
from kept.fence.limits import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

CHILD = [sys.executable, "-I", "-m", "kept.fence.child"]

INHERITED = (
    *("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ"),
    *("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM"),
)
"""Environment variables that the child inherits: library paths, locale, threads. Others may hold secrets."""

ENDING = 5.0
"""Seconds to wait for a child to exit after it closed its pipe."""


class FenceError(KeptError):
    """Work on an untrusted file failed or exceeded its limits. The message is the reason only; callers add the file."""


class Reply(NamedTuple):
    """The result of a call: a JSON value and raw bytes."""

    value: Any
    data: bytes


class Worker:
    """A child process that constructs `target` (`module:Class`) with JSON arguments and serves its methods.

    The first call starts the child. A call after one that exceeded the limits starts a new child. Calls from several
    threads run one at a time.
    """

    def __init__(self, target: str, *arguments: object, limits: Limits | None = None) -> None:
        self._target, self._arguments = target, arguments
        self._limits = limits or Limits()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._made = False

    def call(self, method: str, *arguments: object, seconds: float | None = None) -> Reply:
        """Call a method of the child's object. `seconds` replaces the time limit for this call.

        Raises FenceError for a failure or an exceeded limit, and any KeptError that the method raised.
        """
        limit = self._limits.seconds if seconds is None else seconds
        with self._lock:
            try:
                if self._process is None:
                    self._start()
                    self._ask(self._target, self._arguments, limit)
                    self._made = True
                return self._ask(method, arguments, limit)
            except KeptError as error:
                if isinstance(error, _EndedError) or not self._made:
                    self._stop()
                raise
            except BaseException:
                # The pending reply would be read as that of the next call.
                self._stop()
                raise

    def close(self) -> None:
        """Kill the child."""
        with self._lock:
            self._stop()

    def _start(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - a fixed command
            [*CHILD, str(self._limits.memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={name: os.environ[name] for name in INHERITED if name in os.environ},
            start_new_session=True,
        )
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        self._kill = weakref.finalize(self, _kill, self._process)

    def _stop(self) -> None:
        if self._process is not None:
            self._kill()
        self._process, self._made = None, False

    def _ask(self, method: str, arguments: tuple[object, ...], seconds: float) -> Reply:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        deadline = time.monotonic() + seconds
        try:
            write_frame(process.stdin.fileno(), [method, arguments, seconds], deadline=deadline)
            answer, data = read_frame(process.stdout.fileno(), self._limits.text, self._limits.memory, deadline)
        except DeadlineExceeded:
            raise _EndedError(f"it takes more than {seconds:g} seconds") from None
        except PipeClosed:
            raise _EndedError(self._why_ended(process)) from None
        except (ValueError, RecursionError) as error:
            raise _EndedError(f"its reply is invalid: {error}") from None
        match answer:
            case {"value": value}:
                return Reply(value, data)
            case {"message": str(message)}:
                raise self._error(message, answer)
            case _:
                raise _EndedError("its reply is malformed")

    def _why_ended(self, process: subprocess.Popen[bytes]) -> str:
        """Return why the child ended. Libraries abort when memory is refused, so a signal most likely means that."""
        try:
            status = process.wait(ENDING)
        except subprocess.TimeoutExpired:
            return "its process does not respond"
        memory = f"{self._limits.memory >> 20} MB of memory"
        if status < 0:
            return f"it needs more than {memory}, or crashed ({signal.Signals(-status).name})"
        return f"its process ended with status {status}"

    def _error(self, message: str, answer: Mapping[str, object]) -> KeptError:
        kind, failed = getattr(errors, str(answer.get("kept")), None), str(answer.get("failed", ""))
        if isinstance(kind, type) and issubclass(kind, KeptError):
            return kind(message)
        if failed.endswith("MemoryError"):
            return FenceError(f"it needs more than {self._limits.memory >> 20} MB of memory")
        return FenceError(message or failed or "it fails")


class _EndedError(FenceError):
    """The child has ended or must be killed."""


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()
