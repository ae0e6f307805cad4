"""What a measurement has found so far: an interrupted one continues after the steps that are on the disk.

A measurement takes its steps in an order that its key decides, so that line n of its journal is the value of step n.
Lines are written some seconds apart, and when the measurement is interrupted. A line that was torn, and all behind it,
are computed again.
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

from kept.checkpoint.disk import refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECONDS = 5.0
"""Between two writes, at least."""

FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Journal:
    """Takes the steps of measurements; within `kept_in`, those that an interrupted run has taken are read instead."""

    def __init__(self) -> None:
        self._file: tuple[Path, IO[bytes]] | None = None
        self._found: deque[Any] = deque()
        self._held: list[bytes] = []
        self._written = 0.0

    def take(self, step: Callable[[], Any]) -> Any:  # noqa: ANN401 - plain data
        """The value of the next step, which is plain data: as it was found before, or computed now."""
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
        """Keep the steps of one measurement in a file, which stays until its result is written.

        `key` is the sum of what the measurement depends on. Where another process has the file, nothing is kept.
        """
        with refused(file):
            opened = os.fdopen(os.open(file, FLAGS, 0o644), "r+b")
        with opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield
                return
            self._file = file, opened
            self._begin(opened, key)
            try:
                yield
            finally:
                if self._held[1:] or opened.tell():
                    self._write(file, opened)
                else:
                    file.unlink(missing_ok=True)
                self._file, self._found, self._held = None, deque(), []

    def _begin(self, opened: IO[bytes], key: str) -> None:
        """Read the steps of the measurement with this key; whatever else is in the file goes."""
        values, end = [], 0
        for line in opened.read().splitlines(keepends=True):
            try:
                values.append(_value(line))
            except ValueError:
                break
            if values[0] != key:
                break
            end += len(line)
        opened.seek(end)
        opened.truncate()
        self._written = time.monotonic()
        self._found, self._held = deque(values[1:] if end else ()), [] if end else [_line(key)]

    def _write(self, file: Path, opened: IO[bytes]) -> None:
        with refused(file):
            opened.write(b"".join(self._held))
            opened.flush()
        self._held, self._written = [], time.monotonic()


def _line(value: object) -> bytes:
    text = json.dumps(value).encode()
    return b"%08x %b\n" % (crc32(text), text)


def _value(line: bytes) -> Any:  # noqa: ANN401 - plain data
    """What a line holds. Raises ValueError where it is not as it was written."""
    told, _, text = line.removesuffix(b"\n").partition(b" ")
    if not line.endswith(b"\n") or told != b"%08x" % crc32(text):
        raise ValueError(line[:20])
    return json.loads(text)
