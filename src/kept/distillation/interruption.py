"""Ctrl-C while steps are taken: it waits for the end of one, so that nothing that was learned is lost."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@contextmanager
def held() -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C instead of raising it; what is yielded says whether there was one. The second is raised.

    Only where Ctrl-C would raise: in the main thread, under Python's own handler. Elsewhere nothing changes.
    """
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    asked = threading.Event()

    def note(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def so_far(step: int, saved: Path | None) -> str:
    """What an interrupted run has done, and after which step the same command goes on: its newest checkpoint's."""
    if saved is None:
        return f"interrupted after step {step}, before the first checkpoint; the same command begins again"
    last = int(saved.name.rpartition("-")[2])
    return f"interrupted after step {step}; the same command continues after step {last}, the last that is saved"
