"""What a fenced process may use."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of a fenced process.

    `seconds` is wall-clock time for one call, `memory` the bytes of private writable memory that the process may have,
    its Python and libraries among them; a reply may be as large.
    """

    seconds: float = 20.0
    memory: int = 2 << 30
