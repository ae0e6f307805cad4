"""Messages between a process and its fenced child: a JSON value and raw bytes, each prefixed with its length.

Neither side unpickles anything. The reader bounds the length of a message.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from typing import Any

HEADER = struct.Struct("<QQ")
"""Lengths in bytes of the JSON text and of the raw bytes."""

PART = 1 << 20
"""Bytes read or written per system call."""


class DeadlineExceeded(Exception):  # noqa: N818 - a state, not a fault
    """The deadline passed before the message was complete."""


class PipeClosed(Exception):  # noqa: N818 - a state, not a fault
    """The other end of the pipe was closed."""


def write_frame(pipe: int, value: object, data: bytes = b"", deadline: float | None = None) -> None:
    """Write a message. `deadline` is a time of `time.monotonic`; with one, the pipe must be non-blocking.

    Raises DeadlineExceeded, PipeClosed, and TypeError for a value that JSON cannot hold.
    """
    text = json.dumps(value).encode()
    for part in (HEADER.pack(len(text), len(data)) + text, data):
        _write(pipe, memoryview(part), deadline)


def read_frame(pipe: int, most_text: int, most_data: int, deadline: float | None = None) -> tuple[Any, bytes]:
    """Return a message of at most `most_text` bytes of JSON and `most_data` raw bytes.

    Raises DeadlineExceeded, PipeClosed, and ValueError if it is longer or malformed.
    """
    text_size, data_size = HEADER.unpack(_read(pipe, HEADER.size, deadline))
    for size, most in ((text_size, most_text), (data_size, most_data)):
        if size > most:
            raise ValueError(f"a message of {size} bytes, more than {most}")
    value = json.loads(_read(pipe, text_size, deadline))
    return value, bytes(_read(pipe, data_size, deadline))


def _write(pipe: int, left: memoryview, deadline: float | None) -> None:
    while left:
        _wait(pipe, select.POLLOUT, deadline)
        try:
            left = left[os.write(pipe, left[:PART]) :]
        except BrokenPipeError:
            raise PipeClosed from None


def _read(pipe: int, count: int, deadline: float | None) -> bytearray:
    found = bytearray()
    while len(found) < count:
        _wait(pipe, select.POLLIN, deadline)
        part = os.read(pipe, min(PART, count - len(found)))
        if not part:
            raise PipeClosed
        found += part
    return found


def _wait(pipe: int, event: int, deadline: float | None) -> None:
    """Wait until the pipe is ready. Raises DeadlineExceeded at the deadline (a time of `time.monotonic`)."""
    if deadline is None:
        return
    poll = select.poll()
    poll.register(pipe, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(1000 * left):
        raise DeadlineExceeded
