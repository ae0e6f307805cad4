"""Progress reports: the interface by which a stage of work states how far it is."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from kept.errors import InputError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


@runtime_checkable
class Reporter(Protocol):
    """Shows how far a stage is: one with bars (`progress=True`), one's own, or by default none.

    Example:
        ```python
        class Lines:
            @contextmanager
            def stage(self, name, total, unit):
                print(name, total, unit)
                yield lambda done: print(name, done)


        kept.convert("path/to/orion", "out/llama", progress=Lines())
        ```
    """

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Any]:
        """Begin a stage of `total` units (bytes or layers); calling what it yields advances it."""
        ...


class Silent:
    """Reports nothing."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Any]:  # noqa: ARG002 - says nothing
        """A stage that nobody watches."""
        return nullcontext(lambda _: None)


Progress = bool | Reporter
"""What functions take as `progress`: True for bars on stderr, False for nothing, or a `Reporter` of one's own."""


def reporter_of(progress: Progress | None) -> Reporter:
    """Return the reporter that `progress` asks for."""
    if not progress:
        return Silent()
    if progress is not True:
        if not isinstance(progress, Reporter):
            raise InputError(f"progress: is {progress!r}, it must be True, False or a kept.Reporter")
        return progress
    from kept.progress_bars import ProgressBars  # noqa: PLC0415 - imported when it is asked for

    return ProgressBars()


def shows() -> bool:
    """Whether this process is the one of its run that shows anything: torchrun numbers them."""
    return os.environ.get("RANK", "0") == "0"
