"""Batches of packed rows: the documents of an epoch in random order, concatenated and cut into rows of one length.

Shapes: B rows, T tokens of a row.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from kept.distillation.data.mixture import MixtureSchedule
from kept.distillation.data.row_layout import DocumentOrder, RowLayout, TokenSpan, row_permutation
from kept.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from kept.distillation.data.mixture import Mixture
    from kept.distillation.data.token_dataset import TokenDataset

PADDING = -1
"""The document number of padding."""

REMEMBERED = 2
"""Epochs of a source whose order is cached: a row may begin in one epoch and end in the next."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Packed rows.

    `documents_BT` numbers the documents of the batch as `names` lists them (-1 is padding): attention stays inside one,
    and its positions begin at 0. `targets_BT` is the id that follows in the same document; `mask_BT` is 0 where none
    does, and where a conversation goes on with what the assistant does not say. What a text has beyond a row is a new
    document in the next. `numbers_B` are the rows' numbers in a corpus that is cut once (`packed_rows.py`).
    `single` states that every row is one document.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    mask_BT: Tensor
    documents_BT: Tensor
    names: tuple[str, ...]
    numbers_B: Tensor | None = None
    single: bool = False

    @property
    def positions_BT(self) -> Tensor:
        """The position of each token in its document, (B, T)."""
        at_T = torch.arange(self.tokens_BT.shape[1])
        first_BT = torch.ones_like(self.documents_BT, dtype=torch.bool)
        first_BT[:, 1:] = self.documents_BT[:, 1:] != self.documents_BT[:, :-1]
        return at_T - torch.where(first_BT, at_T, 0).cummax(dim=1).values

    def to(self, device: torch.device) -> Batch:
        """Return the batch on a device. Document numbers are compared before they are moved: no step waits for it."""
        single = bool((self.documents_BT == self.documents_BT[:, :1]).all())
        return replace(self._each(lambda x: x.to(device)), single=single)

    @property
    def packed_BT(self) -> Tensor | None:
        """The document of each token for attention; None if every row is one document, which needs no mask."""
        return None if self.single else self.documents_BT

    def rows(self, begin: int, stop: int) -> Batch:
        """Return the rows from `begin` to `stop`."""
        return self._each(lambda x: x[begin:stop])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {n: change(x) for n, x in vars(self).items() if isinstance(x, torch.Tensor)}
        return replace(self, **changed)

    def masked(self) -> Batch:
        """Return the same rows with a mask of 0: no token counts for the loss."""
        return replace(self, mask_BT=torch.zeros_like(self.mask_BT))


class BatchStream:
    """An endless sequence of batches of `batch` rows of `length` tokens.

    Each source is read in epochs. Every epoch has a random order, from `seed`: of the documents, or, for conversations,
    of rows that are packed once. Raises InputError for a size that is not positive.
    """

    def __init__(self, mixture: Mixture, batch: int, length: int, seed: int = 0) -> None:
        for name, value in (("batch", batch), ("length", length)):
            if value < 1:
                raise InputError(f"{name}: is {value}, it must be positive")
        self.mixture, self.batch, self.length, self.seed = mixture, batch, length, seed
        self._orders: OrderedDict[tuple[int, int], DocumentOrder] = OrderedDict()
        self._layouts: dict[int, RowLayout] = {}

    @cached_property
    def schedule(self) -> MixtureSchedule:
        """The source of each row."""
        return MixtureSchedule(self.mixture.shares)

    def batch_at(self, step: int) -> Batch:
        """Return the batch of a step. It depends on nothing but the number of the step."""
        first = step * self.batch
        return pack_rows(
            [list(self._row(*self.schedule.source_of(first + row))) for row in range(self.batch)], self.length
        )

    def held_out(self, name: str | None = None, rows: int | None = None) -> list[Batch]:
        """Return the held-out documents of a source (None: of all sources), packed; at most `rows` rows of each.

        The last row is padded. Documents are ordered by their digests, so the first rows are a random sample.
        """
        batches = []
        for at, source in enumerate(self.mixture.names):
            if name in (None, source):
                batches += self.packed(RowLayout(self.mixture.tokens[at], self.mixture.held[at], self.length), rows)
        return batches

    def packed(self, layout: RowLayout, most: int | None = None) -> list[Batch]:
        """Return the rows of a layout in batches of this stream's size; at most `most` rows."""
        rows = [layout.row(number) for number in range(len(layout))[:most]]
        return [pack_rows(rows[i : i + self.batch], self.length) for i in range(0, len(rows), self.batch)]

    @property
    def counts(self) -> dict[str, dict[str, int]]:
        """Documents and tokens of each source; for conversations also those that are longer than a row (`cut`)."""
        return {
            name: {
                **found,
                **({} if tokens.assistant_mask is None else {"cut": int((tokens.lengths() > self.length).sum())}),
            }
            for (name, found), tokens in zip(self.mixture.counts.items(), self.mixture.tokens, strict=True)
        }

    def _row(self, source: int, row: int) -> Iterator[TokenSpan]:
        if self.mixture.tokens[source].assistant_mask is not None:
            layout = self._conversation_layout(source)
            epoch, inside = divmod(row, len(layout))
            yield from layout.row(int(row_permutation(self.seed, source, epoch, len(layout))[inside]))
            return
        total = self._order(source, 0).total
        begin, stop = row * self.length, (row + 1) * self.length
        while begin < stop:
            epoch, inside = divmod(begin, total)
            upto = min(stop, (epoch + 1) * total)
            yield from self._order(source, epoch).spans(inside, inside + upto - begin)
            begin = upto

    def _conversation_layout(self, source: int) -> RowLayout:
        """Return the rows of a source of conversations, cached."""
        if source not in self._layouts:
            self._layouts[source] = RowLayout(self.mixture.tokens[source], self.mixture.train[source], self.length)
        return self._layouts[source]

    def _order(self, source: int, epoch: int) -> DocumentOrder:
        """Return the order of the documents of a source in an epoch, cached."""
        key = (source, epoch)
        if key not in self._orders:
            drawn = np.random.default_rng([self.seed, source, epoch]).permutation(self.mixture.train[source])
            self._orders[key] = DocumentOrder(self.mixture.tokens[source], drawn)
        self._orders.move_to_end(key)
        while len(self._orders) > REMEMBERED * len(self.mixture.names):
            self._orders.popitem(last=False)
        return self._orders[key]


def pack_rows(rows: Sequence[Sequence[TokenSpan]], length: int) -> Batch:
    """Pack spans into rows of `length` tokens, padded at the end."""
    shape = (len(rows), length)
    tokens_BT, targets_BT = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    mask_BT, documents_BT = np.zeros(shape, dtype=np.float32), np.full(shape, PADDING, dtype=np.int64)
    names: list[str] = []
    for row, spans in enumerate(rows):
        at = 0
        for span in spans:
            size = span.stop - span.begin
            ids = span.tokens.document(span.document, span.begin, span.stop + 1)  # and the last one's target, if any
            tokens_BT[row, at : at + size] = ids[:size]
            targets_BT[row, at : at + len(ids) - 1] = ids[1:]
            mask_BT[row, at : at + len(ids) - 1] = span.tokens.loss_mask(span.document, span.begin + 1, span.stop + 1)
            documents_BT[row, at : at + size] = len(names)
            names.append(span.tokens.name(span.document))
            at += size
    made = torch.from_numpy
    return Batch(made(tokens_BT), made(targets_BT), made(mask_BT), made(documents_BT), tuple(names))


def check_stream(stream: BatchStream, vocabulary: int, context: int) -> None:
    """Raise InputError if the rows are longer than a model's context, or ids exceed its vocabulary."""
    if stream.length > context:
        raise InputError(f"length: is {stream.length}, the model has {context} positions; make rows shorter")
    for name, tokens in zip(stream.mixture.names, stream.mixture.tokens, strict=True):
        check_ids(name, tokens, vocabulary)


def check_ids(name: str, tokens: TokenDataset, vocabulary: int) -> None:
    """Raise InputError if a source has ids that exceed a model's vocabulary."""
    if tokens.largest >= vocabulary:
        raise InputError(
            f"{name}: has id {tokens.largest}, the model has {vocabulary} tokens; is the tokenizer another's?"
        )
