"""The fenced process: makes one object and serves its methods, one call at a time, until its input ends.

`python -I -m kept.fence.child MEMORY`; requests come on standard input, replies go to the standard output that it began
with. Whatever a library prints goes nowhere.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from importlib import import_module
from typing import Any

from kept.errors import KeptError
from kept.fence.frames import Closed, read_frame, write_frame
from kept.fence.isolation import bound_memory, keep_to_itself, leave_network, stop_writing

LONGEST_REQUEST = 1 << 32
"""Bytes. The parent is trusted."""


def serve(requests: int, replies: int) -> None:
    """Answer calls until the parent closes its side."""
    made: Any = None
    while True:
        try:
            (method, arguments, seconds), _ = read_frame(requests, LONGEST_REQUEST)
        except Closed:
            return
        # The kernel ends this process if it is stuck, even where its parent was killed before it could.
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


def _make(target: str) -> Any:  # noqa: ANN401 - a class of any module of ours
    module, name = target.split(":")
    return getattr(import_module(module), name)


def _failure(error: BaseException) -> dict[str, str]:
    """The error's class and message: in the parent a KeptError is raised again as it was."""
    kind = type(error).__name__
    if isinstance(error, KeptError):
        return {"kept": kind, "message": str(error)}
    return {"failed": kind, "message": str(error)[:LONGEST_MESSAGE]}


LONGEST_MESSAGE = 2000
"""Characters."""


def main(memory: str) -> None:
    """Give up what is not needed, then serve."""
    requests, replies = os.dup(0), os.dup(1)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    tempfile.tempdir = "/"  # libraries ask for one that can be written when they are imported; there is none
    leave_network()
    stop_writing()
    keep_to_itself()
    bound_memory(int(memory))
    serve(requests, replies)


if __name__ == "__main__":
    main(*sys.argv[1:])
