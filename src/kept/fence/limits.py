"""Limits on the time and memory of a fenced process."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Limits of a fenced process.

    `seconds` is the wall-clock time of one call. `memory` is the private writable memory of the process in bytes,
    including Python and its libraries; it also bounds the raw bytes of a reply. `text` bounds the JSON of a reply in
    bytes, because the parent parses it into Python objects that take many times as much.
    """

    seconds: float = 20.0
    memory: int = 2 << 30
    text: int = 64 << 20
