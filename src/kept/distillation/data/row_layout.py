"""Documents side by side, cut into rows of one length: a text goes on in the next row, a conversation is in one."""

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
    """Ids `begin` to `stop` of a document."""

    tokens: TokenDataset
    document: int
    begin: int
    stop: int


class DocumentOrder:
    """Documents of a source, one after another."""

    def __init__(self, tokens: TokenDataset, documents: NDArray[np.int64]) -> None:
        self.tokens, self.documents = tokens, documents
        self.ends = np.cumsum(tokens.lengths()[documents])

    @property
    def total(self) -> int:
        """Ids in all of them."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def spans(self, begin: int, stop: int) -> Iterator[TokenSpan]:
        """What lies between two places of the whole, document by document."""
        at = int(np.searchsorted(self.ends, begin, side="right"))
        while begin < stop:
            end = int(self.ends[at])
            first = int(self.ends[at - 1]) if at else 0
            upto = min(end, stop)
            yield TokenSpan(self.tokens, int(self.documents[at]), begin - first, upto - first)
            begin, at = upto, at + 1


class RowLayout:
    """Documents cut once into rows of at most `length` ids.

    Of texts every row but the last is full. Conversations are put together so that they fill rows, as many as fit; one
    that is longer than a row has its end left out.
    """

    def __init__(self, tokens: TokenDataset, documents: NDArray[np.int64], length: int) -> None:
        if tokens.learned is None:
            self.order = DocumentOrder(tokens, documents)
            self.begins = np.arange(0, self.order.total, length)
            self.stops = np.minimum(self.begins + length, self.order.total)
            return
        sizes = tokens.lengths()[documents]
        rows = fitted(sizes.tolist(), length)
        self.order = DocumentOrder(tokens, documents[[at for row in rows for at in row]])
        whole = [sum(int(sizes[at]) for at in row) for row in rows]
        self.begins = np.cumsum([0, *whole])[:-1]
        self.stops = self.begins + np.minimum(whole, length)

    def __len__(self) -> int:
        """How many rows there are."""
        return len(self.begins)

    def row(self, number: int) -> list[TokenSpan]:
        """What is in a row."""
        return list(self.order.spans(int(self.begins[number]), int(self.stops[number])))


def fitted(sizes: Sequence[int], length: int) -> list[list[int]]:
    """Documents in rows, each whole, by best-fit decreasing (as arXiv 2404.10830 does, to truncate less).

    The longest come first, each into the row where the least is left beside it. Rows are told in the order of their
    first documents.
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
def permutation(seed: int, source: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order of a source's rows in an epoch, remembered: it is asked for once a row."""
    return np.random.default_rng([seed, source, epoch]).permutation(count)
