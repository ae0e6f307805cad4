"""Ctrl-C while steps are taken: it waits for the end of one, so that nothing that was learned is lost."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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
