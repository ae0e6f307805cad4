"""Journal of a measurement's steps, from which an interrupted measurement resumes.

The key of a measurement determines the order of its steps, so line n of the journal is the value of step n; line 0 is
the key. Lines are written every few seconds and on interruption. A torn line and all lines after it are computed again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections import deque
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any
from zlib import crc32

from kept.checkpoint.small_files import refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 5.0
"""Minimum time between two writes, in seconds."""

FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
"""Flags that open a journal: it is created if missing, and a symbolic link is not followed."""


class Journal:
    """Runs the steps of measurements. Within `kept_in`, the steps that an interrupted run finished are read instead."""

    def __init__(self) -> None:
        self._file: tuple[Path, IO[bytes]] | None = None
        self._found: deque[Any] = deque()
        self._held: list[bytes] = []
        self._written = 0.0

    def take(self, step: Callable[[], Any]) -> Any:  # noqa: ANN401 - plain data
        """Return the value of the next step, which must be JSON data: from the journal, or computed now."""
        if self._file is None:
            return step()
        if self._found:
            return self._found.popleft()
        line = _line(step())
        self._held.append(line)
        if time.monotonic() - self._written >= SECONDS:
            self._write(*self._file)
        return _value(line)

    @contextmanager
    def kept_in(self, file: Path, key: str) -> Iterator[None]:
        """Keep the steps of one measurement in a file; the caller removes it after the result is written.

        `key` is a hash of everything the measurement depends on. If another process holds the file, no step is kept.
        Raises OutputError if the file cannot be written.
        """
        with refused(file):
            stream = os.fdopen(os.open(file, FLAGS, 0o644), "r+b")
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield
                return
            self._file = file, stream
            self._begin(stream, key)
            try:
                yield
            finally:
                if self._held[1:] or stream.tell():
                    self._write(file, stream)
                else:
                    file.unlink(missing_ok=True)
                self._file, self._found, self._held = None, deque(), []

    def _begin(self, stream: IO[bytes], key: str) -> None:
        """Read the steps of the measurement with this key, and truncate the file after them."""
        values, end = [], 0
        for line in stream.read().splitlines(keepends=True):
            try:
                values.append(_value(line))
            except ValueError:
                break
            if values[0] != key:
                break
            end += len(line)
        stream.seek(end)
        stream.truncate()
        self._written = time.monotonic()
        self._found, self._held = deque(values[1:] if end else ()), [] if end else [_line(key)]

    def _write(self, file: Path, stream: IO[bytes]) -> None:
        with refused(file):
            stream.write(b"".join(self._held))
            stream.flush()
        self._held, self._written = [], time.monotonic()


def _line(value: object) -> bytes:
    text = json.dumps(value).encode()
    return b"%08x %b\n" % (crc32(text), text)


def _value(line: bytes) -> Any:  # noqa: ANN401 - plain data
    """Return the value in a line. Raises ValueError if the line is torn or its checksum differs."""
    checksum, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % crc32(text):
        raise ValueError(line[:20])
    return json.loads(text)
