"""Output heads a chunk of tokens at a time: logits of a whole batch never exist.

Shapes: N tokens, C of them in a chunk, D width, V vocabulary (this rank's part, where it is split).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.distillation.loss import chunk_size
from kept.distillation.loss.reference import wide
from kept.ir.spec import Head
from kept.nn.model import finish

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, eq=False)
class HeadInput:
    """What makes logits: hidden states behind the final norm, and the head as `kept.nn.model.project` takes it."""

    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None = None
    head: Head = field(default_factory=Head)

    @property
    def vocabulary(self) -> int:
        """Rows of the head."""
        return self.weight_VD.shape[0]

    @property
    def chunk(self) -> int:
        """Tokens whose logits exist at a time, where nobody says another number."""
        return chunk_size.chunk(self.vocabulary, host=self.weight_VD.device.type == "cpu")

    def plain(self) -> HeadInput:
        """The same with rows that are already normalised, where the head asks for that."""
        if not self.head.normalised:
            return self
        return replace(self, weight_VD=F.normalize(self.weight_VD, dim=-1), head=replace(self.head, normalised=False))


class HeadProjection:
    """A plain head that is run on chunks, into one buffer, in the dtype that autocast or else the inputs say."""

    def __init__(self, given: HeadInput, rows: int) -> None:
        self.hidden_ND, self.head = given.hidden_ND, given.head
        dtype = _product_dtype(given)
        self.weight_VD = given.weight_VD.to(dtype)
        self.bias_V = None if given.bias_V is None else given.bias_V.to(dtype)
        self.buffer_CV = given.hidden_ND.new_empty(rows, given.vocabulary, dtype=dtype)

    def products(self, rows_C: Tensor) -> Tensor:
        """`W x + b` of some tokens, (C, V), to be overwritten by the next chunk's."""
        out_CV, hidden_CD = self.buffer_CV[: len(rows_C)], self.rows(rows_C)
        if self.bias_V is None:
            return torch.mm(hidden_CD, self.weight_VD.T, out=out_CV)
        return torch.addmm(self.bias_V, hidden_CD, self.weight_VD.T, out=out_CV)

    def rows(self, rows_C: Tensor) -> Tensor:
        """Hidden states of some tokens in the dtype of the products."""
        return self.hidden_ND[rows_C].to(self.weight_VD.dtype)

    def logits(self, products_RV: Tensor) -> Tensor:
        """What the head makes of products, in at least float32; never written to by its reader."""
        return finish(wide(products_RV), self.head)

    def through(self, grad_RV: Tensor, logits_RV: Tensor) -> Tensor:
        """A gradient in the logits made one in the products, in place."""
        if self.head.softcap is not None:
            grad_RV.mul_(1 - (logits_RV / self.head.softcap).square_())
        return grad_RV if self.head.multiplier == 1 else grad_RV.mul_(self.head.multiplier)


def _product_dtype(given: HeadInput) -> torch.dtype:
    device = given.hidden_ND.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.promote_types(given.hidden_ND.dtype, given.weight_VD.dtype)


def blocks(logits_CV: Tensor, *, whole: bool = False) -> Iterator[slice]:
    """Slices of a chunk to work on one by one; one slice on an accelerator, or where `whole` says so.

    An empty chunk is one empty slice: what is made of it has its names and its types.
    """
    rows, vocabulary = logits_CV.shape
    step = rows if whole or logits_CV.device.type != "cpu" else chunk_size.BLOCK // vocabulary
    step = max(1, step)
    return (slice(at, at + step) for at in range(0, max(1, rows), step))
