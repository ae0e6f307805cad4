"""Ctrl-C and SIGTERM: what they end, and work that waits for its next good moment to end.

SIGTERM is what schedulers, containers and torchrun send before they kill. It ends a command as Ctrl-C does: files that
were begun are removed, and what is finished stays for the same command to continue.
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
    """SIGTERM came."""


def _raise(*_: object) -> None:
    raise Terminated


@contextmanager
def terminable() -> Iterator[None]:
    """Raise Terminated where SIGTERM would end the process on the spot. Only in the main thread."""
    if not _ours(signal.SIGTERM):
        yield
        return
    before = signal.signal(signal.SIGTERM, _raise)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _ours(number: signal.Signals) -> bool:
    """Whether a signal is still handled as Python or `terminable` handle it, by this thread."""
    usual = {signal.SIGINT: (signal.default_int_handler,), signal.SIGTERM: (signal.SIG_DFL, _raise)}
    return threading.current_thread() is threading.main_thread() and signal.getsignal(number) in usual[number]


@dataclass
class Held:
    """Says whether a signal came: the first one's number."""

    number: int | None = None

    def __bool__(self) -> bool:
        """Whether one came."""
        return self.number is not None

    @property
    def error(self) -> type[KeyboardInterrupt]:
        """What it would have raised."""
        return Terminated if self.number == signal.SIGTERM else KeyboardInterrupt


@contextmanager
def held(*, patient: bool = False) -> Iterator[Held]:
    """Note the first Ctrl-C or SIGTERM instead of raising it; the second is raised, or, where `patient`, ignored.

    torchrun passes on to each rank a Ctrl-C that the terminal has sent them already, and kills what takes too long.
    Other handlers than the usual ones, and other threads, are left as they are.
    """
    found = Held()

    def note(number: int, _: object) -> None:
        if found and not patient:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        found.number = found.number or number

    before = {number: signal.signal(number, note) for number in SIGNALS if _ours(number)}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def so_far(step: int, saved: Path | None) -> str:
    """What an interrupted run has done, and after which step the same command goes on: its newest checkpoint's."""
    if saved is None:
        return f"interrupted after step {step}, before the first checkpoint; the same command begins again"
    last = int(saved.name.rpartition("-")[2])
    return f"interrupted after step {step}; the same command continues after step {last}, the last that is saved"
