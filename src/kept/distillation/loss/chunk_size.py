"""The number of logits that are held at a time. The losses and the memory forecast share it; needs no torch."""

from __future__ import annotations

BLOCK = 1 << 21
"""Logits that a CPU processes at a time, 8 MB in float32, so that intermediate results stay in its cache.

Smaller blocks are not faster. They also synchronise threads more often, which is slow if other processes use the cores.
"""

CHUNK_LOGITS = 1 << 24
"""Logits of a chunk on a CPU: 64 MB in float32."""

MIN_TOKENS, MAX_TOKENS = 128, 1024
"""Tokens of a chunk on a CPU. Matrix products are slow with fewer and not faster with more."""

DEVICE_TOKENS = 256
"""Tokens of a chunk on an accelerator. With fewer, reading the head's weight dominates the matrix product."""


def chunk_tokens(vocabulary: int, *, host: bool = True) -> int:
    """Return the number of tokens whose logits are held at a time, on the host or on an accelerator."""
    return min(MAX_TOKENS, max(MIN_TOKENS, CHUNK_LOGITS // vocabulary)) if host else DEVICE_TOKENS
