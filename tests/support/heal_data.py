"""Documents and tokens for the tests of healing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import strategies as st

from kept.distillation.data.token_dataset import ROW, TokenDataset

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LARGE = 1000
"""Above any test's document length: id = document * LARGE + place says where an id is from."""


def tokens_of(lengths: Sequence[int], digests: Sequence[int] | None = None, first: int = 0) -> TokenDataset:
    """Documents of these lengths, whose ids say which document and which place in it."""
    documents = [[(first + d) * LARGE + i for i in range(length)] for d, length in enumerate(lengths)]
    ids = np.array([i for document in documents for i in document], dtype=np.uint32)
    table = np.zeros(len(lengths), dtype=ROW)
    table["end"] = np.cumsum(lengths)
    table["digest"] = spread(first, len(lengths)) if digests is None else digests
    table["place"] = np.arange(len(lengths)) + first
    return TokenDataset(ids, table, ("made",), int(ids.max(initial=0)))


def spread(first: int, count: int) -> list[int]:
    """Digests that look drawn from 64 bits, the same for the same document."""
    return [(0x9E3779B97F4A7C15 * (first + i + 1) ** 3) % 2**64 for i in range(count)]


lengths = st.lists(st.integers(2, 30), min_size=2, max_size=25)
"""Documents that teach something, two at least: one is held out."""


def write_lines(file: Path, *values: object) -> Path:
    file.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return file
