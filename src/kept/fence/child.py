"""The fenced process: constructs one object and serves its methods, one call at a time, until its input ends.

It runs as `python -I -m kept.fence.child MEMORY`, with MEMORY in bytes. Requests come on standard input and replies go
to the original standard output. Output of libraries is discarded.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from importlib import import_module
from typing import Any

from kept.errors import KeptError
from kept.fence.frames import PipeClosed, read_frame, write_frame
from kept.fence.isolation import bound_memory, keep_to_itself, leave_network, stop_writing

LONGEST_REQUEST = 1 << 32
"""Bytes of a request. The limit is high because the parent is trusted."""


def serve(requests: int, replies: int) -> None:
    """Serve requests from one pipe and write replies to the other, until the parent closes its end."""
    made: Any = None
    while True:
        try:
            (method, arguments, seconds), _ = read_frame(requests, LONGEST_REQUEST, LONGEST_REQUEST)
        except PipeClosed:
            return
        # SIGALRM ends a stuck process even if its parent was killed and cannot.
        signal.setitimer(signal.ITIMER_REAL, 2 * seconds)
        try:
            if made is None:
                made, found = _make(method)(*arguments), None
            else:
                found = getattr(made, method)(*arguments)
            value, data = found if isinstance(found, tuple) else (found, b"")
            write_frame(replies, {"value": value}, data)
        except BaseException as error:  # noqa: BLE001 - libraries in Rust panic with a BaseException
            write_frame(replies, _failure(error))
        signal.setitimer(signal.ITIMER_REAL, 0)


def _make(target: str) -> Any:  # noqa: ANN401 - any class of this package
    module, name = target.split(":")
    return getattr(import_module(module), name)


def _failure(error: BaseException) -> dict[str, str]:
    """Return the error's class name and message. The parent raises a KeptError again with its class."""
    kind = type(error).__name__
    if isinstance(error, KeptError):
        return {"kept": kind, "message": str(error)}
    return {"failed": kind, "message": str(error)[:LONGEST_MESSAGE]}


LONGEST_MESSAGE = 2000
"""Characters of a library's error message that are sent."""


def main(memory: str) -> None:
    """Drop access to network, files and other processes, bound the memory (bytes), then serve."""
    requests, replies = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    tempfile.tempdir = "/"  # libraries look for a writable directory when they are imported; there is none
    leave_network()
    stop_writing()
    keep_to_itself()
    bound_memory(int(memory))
    serve(requests, replies)


if __name__ == "__main__":
    main(*sys.argv[1:])
