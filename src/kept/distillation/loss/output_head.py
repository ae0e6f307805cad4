"""An output head applied to chunks of tokens, so that the logits of a whole batch are never held.

Shapes: N tokens, C tokens of a chunk, R tokens of a block, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.distillation.loss import chunk_size
from kept.ir.spec import Head
from kept.nn.decoder import finish

if TYPE_CHECKING:
    from collections.abc import Iterator


def at_least_float32(x: Tensor) -> Tensor:
    """Return `x` in float64 if it is float64, else in float32: softmax and sums over a vocabulary need the digits."""
    return x if x.dtype == torch.float64 else x.float()


@dataclass(frozen=True, eq=False)
class HeadInput:
    """Hidden states after the final norm, (N, D), and the head: its weight, (V, D), its bias, (V,), and its spec."""

    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None = None
    head: Head = field(default_factory=Head)

    @property
    def vocabulary(self) -> int:
        """Number of rows of the head."""
        return self.weight_VD.shape[0]

    @property
    def chunk(self) -> int:
        """Number of tokens whose logits are held at a time, unless the caller chooses another."""
        return chunk_size.chunk_tokens(self.vocabulary, host=self.weight_VD.device.type == "cpu")

    def first(self, rows: int) -> HeadInput:
        """Return the same head with its first rows only."""
        if rows >= self.vocabulary:
            return self
        return replace(
            self, weight_VD=self.weight_VD[:rows], bias_V=None if self.bias_V is None else self.bias_V[:rows]
        )

    def with_normalised_rows(self) -> HeadInput:
        """Return the same head with its rows normalised already, if the spec asks for normalised rows."""
        if not self.head.normalised:
            return self
        return replace(self, weight_VD=F.normalize(self.weight_VD, dim=-1), head=replace(self.head, normalised=False))


class HeadProjection:
    """A head, its rows normalised already, that is applied to chunks of tokens into one buffer of `tokens` rows.

    Products are in autocast's dtype if it is enabled, else in the promoted dtype of hidden states and weight.
    """

    def __init__(self, given: HeadInput, tokens: int) -> None:
        self.hidden_ND, self.head = given.hidden_ND, given.head
        dtype = _product_dtype(given)
        self.weight_VD = given.weight_VD.to(dtype)
        self.bias_V = None if given.bias_V is None else given.bias_V.to(dtype)
        self.buffer_CV = given.hidden_ND.new_empty(tokens, given.vocabulary, dtype=dtype)

    def products(self, rows_C: Tensor) -> Tensor:
        """Return `W x + b` of the tokens `rows_C`, (C, V), in the buffer: the next call overwrites it."""
        out_CV, hidden_CD = self.buffer_CV[: len(rows_C)], self.hidden_states(rows_C)
        if self.bias_V is None:
            return torch.mm(hidden_CD, self.weight_VD.T, out=out_CV)
        return torch.addmm(self.bias_V, hidden_CD, self.weight_VD.T, out=out_CV)

    def hidden_states(self, rows_C: Tensor) -> Tensor:
        """Return the hidden states of some tokens, (C, D), in the dtype of the products."""
        return self.hidden_ND[rows_C].to(self.weight_VD.dtype)

    def logits(self, products_RV: Tensor) -> Tensor:
        """Return the logits of some products in at least float32. Callers must not write to them."""
        return finish(at_least_float32(products_RV), self.head)

    def gradient_in_products(self, gradient_RV: Tensor, logits_RV: Tensor) -> Tensor:
        """Turn a gradient in the logits into one in the products, in place."""
        if self.head.softcap is not None:
            gradient_RV.mul_(1 - (logits_RV / self.head.softcap).square_())
        return gradient_RV if self.head.multiplier == 1 else gradient_RV.mul_(self.head.multiplier)


def _product_dtype(given: HeadInput) -> torch.dtype:
    device = given.hidden_ND.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return torch.promote_types(given.hidden_ND.dtype, given.weight_VD.dtype)


def blocks(logits_CV: Tensor) -> Iterator[slice]:
    """Yield slices of a chunk to process one by one; on an accelerator the whole chunk.

    An empty chunk gives one empty slice, so that the result has its names and dtypes.
    """
    tokens, vocabulary = logits_CV.shape
    step = tokens if logits_CV.device.type != "cpu" else chunk_size.BLOCK // vocabulary
    step = max(1, step)
    return (slice(begin, begin + step) for begin in range(0, max(1, tokens), step))
