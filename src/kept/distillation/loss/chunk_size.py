"""How many logits exist at a time: what the loop does and what its memory is counted by, and needs no torch."""

from __future__ import annotations

BLOCK = 1 << 21
"""Logits that a CPU works on at a time, 8 MB in float32: what a loss makes of them stays in the processor's cache.

Smaller blocks are no faster, and threads that wait for one another after each step of each block lose a slice of time
every time that another process has taken a core.
"""

HELD, FEWEST, MOST = 1 << 24, 128, 1024
"""Logits of a chunk on a CPU, 64 MB in float32, and its tokens: fewer make the products slow, more are no faster."""

ON_DEVICE = 256
"""Tokens of a chunk on an accelerator, where a product needs more of them to be worth reading the head for."""


def chunk(vocabulary: int, *, host: bool = True) -> int:
    """Tokens whose logits over a vocabulary exist at a time, on the host or on an accelerator."""
    return min(MOST, max(FEWEST, HELD // vocabulary)) if host else ON_DEVICE
