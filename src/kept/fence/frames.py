"""Messages between a process and its fenced child: a JSON value and bytes, each with its length before it.

Neither side unpickles anything, and the reader decides how long a message may be.
"""

from __future__ import annotations

import json
import os
import select
import struct
import time
from typing import Any

HEADER = struct.Struct("<QQ")

PART = 1 << 20
"""Bytes that are moved at a time."""


class Late(Exception):  # noqa: N818 - it is what the message is
    """The deadline passed before the message was whole."""


class Closed(Exception):  # noqa: N818 - it is what the pipe is
    """The other side ended."""


def write_frame(pipe: int, value: object, data: bytes = b"", deadline: float | None = None) -> None:
    """Write a message; with a deadline the pipe must not block.

    Raises Late, Closed, and TypeError for what is no JSON.
    """
    text = json.dumps(value).encode()
    for part in (HEADER.pack(len(text), len(data)) + text, data):
        _write(pipe, memoryview(part), deadline)


def read_frame(pipe: int, largest: int, deadline: float | None = None) -> tuple[Any, bytes]:
    """Read a message of at most `largest` bytes. Raises Late, Closed, and ValueError for what is no such message."""
    of_text, of_data = HEADER.unpack(_read(pipe, HEADER.size, deadline))
    if of_text + of_data > largest:
        raise ValueError(f"a message of {of_text + of_data} bytes, more than {largest}")
    value = json.loads(_read(pipe, of_text, deadline))
    return value, bytes(_read(pipe, of_data, deadline))


def _write(pipe: int, left: memoryview, deadline: float | None) -> None:
    while left:
        _wait(pipe, select.POLLOUT, deadline)
        try:
            left = left[os.write(pipe, left[:PART]) :]
        except BrokenPipeError:
            raise Closed from None


def _read(pipe: int, count: int, deadline: float | None) -> bytearray:
    found = bytearray()
    while len(found) < count:
        _wait(pipe, select.POLLIN, deadline)
        part = os.read(pipe, min(PART, count - len(found)))
        if not part:
            raise Closed
        found += part
    return found


def _wait(pipe: int, event: int, deadline: float | None) -> None:
    """Wait until the pipe is ready, or no longer than the deadline (of `time.monotonic`)."""
    if deadline is None:
        return
    poll = select.poll()
    poll.register(pipe, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(1000 * left):
        raise Late
