"""Lay documents out in rows of one length: texts continue in the next row, conversations stay in one row."""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from kept.distillation.data.token_dataset import TokenDataset


@dataclass(frozen=True)
class TokenSpan:
    """The tokens from `begin` to `stop` of a document."""

    tokens: TokenDataset
    document: int
    begin: int
    stop: int


class DocumentOrder:
    """The documents of a source, concatenated in some order."""

    def __init__(self, tokens: TokenDataset, documents: NDArray[np.int64]) -> None:
        self.tokens, self.documents = tokens, documents
        self.ends = np.cumsum(tokens.lengths()[documents])

    @property
    def total(self) -> int:
        """The number of tokens."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def spans(self, begin: int, stop: int) -> Iterator[TokenSpan]:
        """Yield the spans between two positions of the concatenation, document by document."""
        at = int(np.searchsorted(self.ends, begin, side="right"))
        while begin < stop:
            end = int(self.ends[at])
            first = int(self.ends[at - 1]) if at else 0
            upto = min(end, stop)
            yield TokenSpan(self.tokens, int(self.documents[at]), begin - first, upto - first)
            begin, at = upto, at + 1


class RowLayout:
    """Documents laid out in rows of at most `length` tokens.

    Rows of texts are full, except the last. Conversations are packed whole; one that is longer than a row is truncated.
    """

    def __init__(self, tokens: TokenDataset, documents: NDArray[np.int64], length: int) -> None:
        if tokens.assistant_mask is None:
            self.order = DocumentOrder(tokens, documents)
            self.begins = np.arange(0, self.order.total, length)
            self.stops = np.minimum(self.begins + length, self.order.total)
            return
        sizes = tokens.lengths()[documents]
        rows = best_fit_decreasing(sizes.tolist(), length)
        self.order = DocumentOrder(tokens, documents[[at for row in rows for at in row]])
        whole = [sum(int(sizes[at]) for at in row) for row in rows]
        self.begins = np.cumsum([0, *whole])[:-1]
        self.stops = self.begins + np.minimum(whole, length)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.begins)

    def row(self, number: int) -> list[TokenSpan]:
        """Return the spans of a row."""
        return list(self.order.spans(int(self.begins[number]), int(self.stops[number])))


def best_fit_decreasing(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Return rows of whole documents, as indices into `sizes`, by best-fit decreasing (arXiv 2404.10830).

    The longest document comes first, each into the row with the least sufficient room. Rows are ordered by their first
    documents.
    """
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for at in sorted(range(len(sizes)), key=lambda at: -sizes[at]):
        size = min(sizes[at], length)
        place = bisect_left(room, (size, 0))
        left, row = room.pop(place) if place < len(room) else (length, len(rows))
        if row == len(rows):
            rows.append([])
        rows[row].append(at)
        if left > size:
            insort(room, (left - size, row))
    return sorted(sorted(row) for row in rows)


@lru_cache(maxsize=64)
def row_permutation(seed: int, source: int, epoch: int, count: int) -> NDArray[np.int64]:
    """Return the order of a source's rows in an epoch; cached, because each row needs it."""
    return np.random.default_rng([seed, source, epoch]).permutation(count)
