"""Progress reports: the interface by which a stage of work states how far it is."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager


class Reporter(Protocol):
    """Shows how far a stage is. The command line has one with bars; the default says nothing."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Any]:
        """Begin a stage of `total` units (bytes or layers); calling what it yields advances it."""
        ...


class Silent:
    """Reports nothing."""

    def stage(self, name: str, total: int, unit: str) -> AbstractContextManager[Any]:  # noqa: ARG002 - says nothing
        """A stage that nobody watches."""
        return nullcontext(lambda _: None)


def shows() -> bool:
    """Whether this process is the one of its run that shows anything: torchrun numbers them."""
    return os.environ.get("RANK", "0") == "0"
