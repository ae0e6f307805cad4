"""Handle Ctrl-C and SIGTERM: end a command cleanly, or hold the signal until the running step is complete.

Schedulers, containers and torchrun send SIGTERM before they kill. It ends a command as Ctrl-C does: unfinished files
are removed, finished ones stay, and the same command continues from them.
"""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived."""


def _raise(*_: object) -> None:
    raise Terminated


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated on SIGTERM instead of ending the process at once. Works in the main thread only."""
    if not _has_usual_handler(signal.SIGTERM):
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _has_usual_handler(number: signal.Signals) -> bool:
    """Return whether this is the main thread and the signal's handler is Python's default or that of `terminable`."""
    usual = {signal.SIGINT: (signal.default_int_handler,), signal.SIGTERM: (signal.SIG_DFL, _raise)}
    return threading.current_thread() is threading.main_thread() and signal.getsignal(number) in usual[number]


@dataclass
class Held:
    """The number of the first signal that arrived; None before that."""

    number: int | None = None

    def __bool__(self) -> bool:
        """Return whether a signal arrived."""
        return self.number is not None

    @property
    def error(self) -> type[KeyboardInterrupt]:
        """The exception that the signal would have raised."""
        return Terminated if self.number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def held(*, patient: bool = False) -> Iterator[Held]:
    """Record the first Ctrl-C or SIGTERM instead of raising it. A second one is raised, or ignored if `patient`.

    Ranks under torchrun are `patient`: they get a Ctrl-C twice, from the terminal and from torchrun, which kills ranks
    that take too long anyway. Handlers that others installed are kept, and nothing is done outside the main thread.
    """
    found = Held()

    def note(number: int, _: object) -> None:
        if found and not patient:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        found.number = found.number or number

    before = {number: signal.signal(number, note) for number in SIGNALS if _has_usual_handler(number)}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def so_far(step: int, saved: Path | None) -> str:
    """Return a message: the last step of an interrupted run, and the step of its newest checkpoint to continue from."""
    if saved is None:
        return f"interrupted after step {step}, before the first checkpoint; the same command starts over"
    last = int(saved.name.rpartition("-")[2])
    return f"interrupted after step {step}; the same command continues from the checkpoint of step {last}"
