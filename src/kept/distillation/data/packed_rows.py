"""Rows that are cut once: every epoch and every seed reads the same ones, in another order.

What a teacher says of a token depends on where its row begins. A stream that draws its documents anew cuts other rows
each time; what is to be kept of a teacher needs rows that stay.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from kept.distillation.data.packing import Batch, BatchStream, lay
from kept.distillation.data.row_layout import RowLayout, permutation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from kept.distillation.data.mixture import Mixture
    from kept.distillation.data.token_dataset import TokenDataset


class PackedRows:
    """A corpus cut into rows of `length`, numbered: what each source trains on, then what it holds out.

    Documents stand in the order of their digests, so the numbers depend on the texts, the length and what is held out,
    and on nothing else. `counts` are the rows that each source trains on, once each at most (None: all there are). The
    last row of a source is padded.
    """

    def __init__(self, mixture: Mixture, length: int, counts: Sequence[int] | None = None) -> None:
        self.mixture, self.length = mixture, length
        self._cuts = [
            cut
            for tokens, train, held in zip(mixture.tokens, mixture.train, mixture.held, strict=True)
            for cut in (in_order(tokens, length, train), RowLayout(tokens, held, length))
        ]
        sizes = [len(cut) for cut in self._cuts]
        if counts is not None:
            sizes[::2] = [min(size, count) for size, count in zip(sizes[::2], counts, strict=True)]
        self._begins = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        """How many there are."""
        return int(self._begins[-1])

    def train(self, source: int) -> range:
        """The rows that a source trains on."""
        return self._part(2 * source)

    def held_out(self, source: int) -> range:
        """The rows that it holds out."""
        return self._part(2 * source + 1)

    def _part(self, part: int) -> range:
        return range(int(self._begins[part]), int(self._begins[part + 1]))

    def lay(self, numbers: Sequence[int]) -> Batch:
        """These rows as a batch."""
        spans = []
        for number in numbers:
            part = int(np.searchsorted(self._begins, number, side="right")) - 1
            spans.append(self._cuts[part].row(number - int(self._begins[part])))
        return replace(lay(spans, self.length), numbers_B=torch.tensor(numbers))


def counts(mixture: Mixture, length: int, tokens: int) -> list[int]:
    """How many rows of each source so many tokens are, as the mixture gives them."""
    whole = sum(mixture.shares)
    return [-(-tokens * share // (length * whole)) for share in mixture.shares]


def in_order(tokens: TokenDataset, length: int, documents: NDArray[np.int64] | None = None) -> RowLayout:
    """Rows of documents (None: all) in the order of their digests: any number of the first is a sample."""
    found = np.arange(len(tokens.table)) if documents is None else documents
    return RowLayout(tokens, found[np.argsort(tokens.table["digest"][found], kind="stable")], length)


class PackedRowStream(BatchStream):
    """Batches of rows that stay: each epoch of a source reads all of its rows, in an order that `seed` decides."""

    def __init__(self, rows: PackedRows, batch: int, seed: int = 0) -> None:
        super().__init__(rows.mixture, batch, rows.length, seed)
        self.numbered = rows

    def batch_at(self, step: int) -> Batch:
        """The batch of a step."""
        first = step * self.batch
        return self.numbered.lay([self._number(*self.schedule.at(first + row)) for row in range(self.batch)])

    def held_out(self, name: str | None = None, rows: int | None = None) -> list[Batch]:
        """The held-out rows of a source (None: of all, one after another); at most `rows` of each."""
        parts = [
            self.numbered.held_out(at)[:rows] for at, source in enumerate(self.mixture.names) if name in (None, source)
        ]
        return [self.numbered.lay(part[i : i + self.batch]) for part in parts for i in range(0, len(part), self.batch)]

    def _number(self, source: int, row: int) -> int:
        part = self.numbered.train(source)
        epoch, inside = divmod(row, len(part))
        return part[int(permutation(self.seed, source, epoch, len(part))[inside])]
