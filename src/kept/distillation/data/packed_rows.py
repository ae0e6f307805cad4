"""Rows that are packed once and numbered: every epoch and every seed reads the same rows, in another order.

A teacher's output at a token depends on the tokens before it in the row, so cached outputs need rows that never change.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from kept.distillation.data.packing import Batch, BatchStream, pack_rows
from kept.distillation.data.row_layout import RowLayout, row_permutation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kept.distillation.data.mixture import Mixture
    from kept.distillation.data.token_dataset import TokenDataset


class PackedRows:
    """A corpus packed into numbered rows of `length` tokens: of each source its training rows, then its held-out rows.

    Documents are ordered by their digests, so the numbers depend only on the texts, the length and the held-out part.
    `counts` are the training rows of each source (None: all). The last row of a source is padded.
    """

    def __init__(self, mixture: Mixture, length: int, counts: Sequence[int] | None = None) -> None:
        self.mixture, self.length = mixture, length
        self._layouts = [
            cut
            for tokens, train, held in zip(mixture.tokens, mixture.train, mixture.held, strict=True)
            for cut in (by_digest(tokens, length, train), RowLayout(tokens, held, length))
        ]
        sizes = [len(cut) for cut in self._layouts]
        if counts is not None:
            sizes[::2] = [min(size, count) for size, count in zip(sizes[::2], counts, strict=True)]
        self._begins = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self._begins[-1])

    def train(self, source: int) -> range:
        """Return the numbers of a source's training rows."""
        return self._part(2 * source)

    def held_out(self, source: int) -> range:
        """Return the numbers of a source's held-out rows."""
        return self._part(2 * source + 1)

    def _part(self, part: int) -> range:
        return range(int(self._begins[part]), int(self._begins[part + 1]))

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Return some rows as a batch."""
        spans = []
        for number in numbers:
            part = int(np.searchsorted(self._begins, number, side="right")) - 1
            spans.append(self._layouts[part].row(number - int(self._begins[part])))
        return replace(pack_rows(spans, self.length), numbers_B=torch.tensor(numbers))


def counts(mixture: Mixture, length: int, tokens: int) -> list[int]:
    """Return the number of rows of each source for a number of tokens, divided by the mixture."""
    whole = sum(mixture.shares)
    return [-(-tokens * share // (length * whole)) for share in mixture.shares]


def by_digest(tokens: TokenDataset, length: int, documents: NDArray[np.int64] | None = None) -> RowLayout:
    """Return rows of documents (None: all) ordered by their digests, so that the first rows are a random sample."""
    found = np.arange(len(tokens.table)) if documents is None else documents
    return RowLayout(tokens, found[np.argsort(tokens.table["digest"][found], kind="stable")], length)


class PackedRowStream(BatchStream):
    """Batches of `PackedRows`: each epoch of a source reads all of its rows once, in a random order from `seed`."""

    def __init__(self, rows: PackedRows, batch: int, seed: int = 0) -> None:
        super().__init__(rows.mixture, batch, rows.length, seed)
        self.numbered = rows

    def batch_at(self, step: int) -> Batch:
        """Return the batch of a step."""
        first = step * self.batch
        return self.numbered.batch([self._number(*self.schedule.source_of(first + row)) for row in range(self.batch)])

    def held_out(self, name: str | None = None, rows: int | None = None) -> list[Batch]:
        """Return the held-out rows of a source (None: of all sources); at most `rows` of each."""
        parts = [
            self.numbered.held_out(at)[:rows] for at, source in enumerate(self.mixture.names) if name in (None, source)
        ]
        return [
            self.numbered.batch(part[i : i + self.batch]) for part in parts for i in range(0, len(part), self.batch)
        ]

    def _number(self, source: int, row: int) -> int:
        part = self.numbered.train(source)
        epoch, inside = divmod(row, len(part))
        return part[int(row_permutation(self.seed, source, epoch, len(part))[inside])]
