"""A teacher's distribution as its top-k tokens and the probability mass of all others.

Shapes: N tokens, C tokens of a chunk, R tokens of a block, K listed tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kept.distillation.loss.output_head import HeadInput, HeadProjection, blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


@dataclass(frozen=True, eq=False)
class TopK:
    """Ids, (N, K), and log-probabilities, (N, K), of a teacher's most likely tokens, and the mass of all others, (N,).

    `temperature` is what the teacher's logits were divided by.
    """

    ids_NK: Tensor
    log_probs_NK: Tensor
    tail_N: Tensor
    temperature: float = 1.0

    @classmethod
    def of(cls, log_p_NV: Tensor, k: int, temperature: float) -> TopK:
        """Take the top `k` tokens (at most V) of log-probabilities, most likely first.

        The tail is summed over the other tokens: 1 minus the listed mass would have no correct digits.
        """
        log_probs_NK, ids_NK = log_p_NV.topk(min(k, log_p_NV.shape[-1]))
        tail_N = log_p_NV.exp().scatter_(-1, ids_NK, 0).sum(-1)
        return cls(ids_NK, log_probs_NK, tail_N, temperature)

    def __getitem__(self, rows: Tensor | slice) -> TopK:
        """Return some of the tokens."""
        return TopK(self.ids_NK[rows], self.log_probs_NK[rows], self.tail_N[rows], self.temperature)


@torch.no_grad()
def top_k(teacher: HeadInput, k: int, temperature: float = 1.0, chunk: int | None = None) -> TopK:
    """Return the top `k` tokens of each of N positions. Logits of `chunk` positions are held at a time."""
    parts = [
        TopK.of((logits_RV / temperature).log_softmax(-1), k, temperature)
        for (logits_RV,) in logits_by_block(chunk, None, teacher)
    ]
    ids, log_probs, tails = zip(*((part.ids_NK, part.log_probs_NK, part.tail_N) for part in parts), strict=True)
    return TopK(torch.cat(ids), torch.cat(log_probs), torch.cat(tails), temperature)


def logits_by_block(chunk: int | None, mask_N: Tensor | None, *heads: HeadInput) -> Iterator[tuple[Tensor, ...]]:
    """Yield the logits of each head, (R, V), at the same tokens: all, or those whose mask is not 0."""
    chunk = chunk or heads[0].chunk
    device, count = heads[0].hidden_ND.device, len(heads[0].hidden_ND)
    counted_M = torch.arange(count, device=device) if mask_N is None else mask_N.nonzero()[:, 0]
    projections = [HeadProjection(head.with_normalised_rows(), min(chunk, len(counted_M))) for head in heads]
    for rows_C in torch.split(counted_M, chunk):
        products = [projection.products(rows_C) for projection in projections]
        for block in blocks(products[0]):
            yield tuple(head.logits(x_CV[block]) for head, x_CV in zip(projections, products, strict=True))
