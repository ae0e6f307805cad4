"""The entry point of the command: standard streams, interruptions during imports, and how OpenMP's threads wait."""

from __future__ import annotations

import io
import os
import signal
import sys
from typing import TYPE_CHECKING

from kept.errors import OutputError, printable

if TYPE_CHECKING:
    from typing import TextIO

    from _typeshed import ReadableBuffer

INTERRUPTED, CUT_OFF = 128 + signal.SIGINT, 128 + signal.SIGPIPE
"""Exit codes for SIGINT and SIGPIPE: 128 plus the signal number, as in shells."""

SPINS = "1000"
"""Turns of the loop in which an OpenMP thread waits for the others before it sleeps: about 50 microseconds.

libgomp's default is several milliseconds. On a busy machine, where another thread may not run for that long, it took
nine of twelve processor seconds of a conversion of the 2 M model. libgomp reads `GOMP_SPINCOUNT` when torch loads it.
"""


class Stdout(io.FileIO):
    """Standard output with its own errors for a closed pipe and a full disk."""

    def write(self, content: ReadableBuffer, /) -> int:
        """Write, and return the bytes written. Raises SystemExit on a closed pipe, OutputError on other errors."""
        try:
            return super().write(content) or 0
        except BrokenPipeError:
            _silence(1)
            raise SystemExit(CUT_OFF) from None
        except OSError as error:
            _silence(1)
            raise OutputError(f"standard output: cannot be written ({error.strerror})") from None


class Stderr(io.FileIO):
    """Standard error whose write errors are ignored."""

    def write(self, content: ReadableBuffer, /) -> int:
        """Write, and return the bytes written. After an error all later output is discarded."""
        try:
            return super().write(content) or 0
        except OSError:
            _silence(2)
            return len(memoryview(content))


def main() -> None:
    """Run the command line."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    try:
        code = _run()
    except KeyboardInterrupt:
        code = _failed("interrupted", INTERRUPTED)
    except OutputError as error:
        code = _failed(str(error), error.exit_code)
    sys.exit(code)


def _run() -> int:
    """Run a command with valid standard streams. Flushes stdout and returns the exit code."""
    if not all(map(_is_open, (0, 2))):
        _fill()
    if not _is_open(1):
        _fill()
        sys.stderr = _text(2, Stderr)
        return _failed("standard output is closed; send it to a file, or to /dev/null", OutputError.exit_code)
    sys.stdout, sys.stderr = _text(1, Stdout), _text(2, Stderr)
    try:
        from kept.cli.root import main as command  # noqa: PLC0415 - takes seconds, and may be interrupted

        command()
    except SystemExit as ended:
        sys.stdout.flush()
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    sys.stdout.flush()
    return 0


def _text(stream: int, kind: type[io.FileIO]) -> TextIO:
    """Return the text layer of a standard stream, as Python makes it, over a `kind` of raw stream."""
    before = sys.__stdout__ if stream == 1 else sys.__stderr__
    encoding = before.encoding if before is not None else "utf-8"
    raw = kind(stream, "w", closefd=False)
    terminal = raw.isatty() or stream == 2
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors="backslashreplace", line_buffering=terminal)


def _failed(why: str, code: int) -> int:
    sys.stderr.write(f"kept: {printable(why)}\n")
    return code


def _is_open(stream: int) -> bool:
    try:
        os.fstat(stream)
    except OSError:
        return False
    return True


def _fill() -> None:
    """Open /dev/null for closed file descriptors below 3, so that no file gets their numbers."""
    while (opened := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(opened)


def _silence(stream: int) -> None:
    """Redirect a stream to /dev/null, so that a later flush cannot fail."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream)
    os.close(nowhere)
