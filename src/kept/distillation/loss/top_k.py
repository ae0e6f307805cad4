"""A teacher as its likeliest tokens, and what is lost by that.

Shapes: N tokens, C of them in a chunk, R in a block, K listed, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kept.distillation.loss.divergences import LogProbs, TopK, forward, listed
from kept.distillation.loss.output_head import HeadInput, HeadProjection, blocks
from kept.distillation.loss.vocabulary import VocabularyShard

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@torch.no_grad()
def top_k(teacher: HeadInput, k: int, temperature: float = 1.0, chunk: int | None = None) -> TopK:
    """The K likeliest tokens of each position, likeliest first, and the mass of the rest, a chunk at a time.

    K is the vocabulary's size where that is smaller. The mass is summed over the rest, not taken from 1.
    """
    found = [
        _likeliest((logits_RV / temperature).log_softmax(-1), k, temperature)
        for (logits_RV,) in _logits(chunk, None, teacher)
    ]
    return TopK(
        torch.cat([one.ids_NK for one in found]),
        torch.cat([one.log_probs_NK for one in found]),
        torch.cat([one.tail_N for one in found]),
        temperature,
    )


@dataclass(frozen=True)
class TopKBias:
    """What K listed tokens and a tail are to the full forward KL, means over tokens.

    `full` and `listed` are the two losses in nats, `tail` the mass that is not listed, `gradient` the relative error
    of the gradient in the student's logits.
    """

    k: int
    full: float
    listed: float
    tail: float
    gradient: float

    @property
    def bias(self) -> float:
        """How far the listed KL is from the full one in nats: never above 0 but for rounding."""
        return self.listed - self.full


@torch.no_grad()
def top_k_bias(
    student: HeadInput,
    teacher: HeadInput,
    mask_N: Tensor,
    ks: Sequence[int],
    temperature: float = 1.0,
    chunk: int | None = None,
) -> list[TopKBias]:
    """Measure a cached teacher against the live one, for each K, over tokens whose mask is not 0."""
    sums = torch.zeros(len(ks), 5, dtype=torch.float64)
    for student_RV, teacher_RV in _logits(chunk, mask_N, student, teacher):
        log_p_RV, log_q_RV = ((x / temperature).log_softmax(-1) for x in (teacher_RV, student_RV))
        whole = VocabularyShard(0, student_RV.shape[-1])
        full_R, grad_RV = forward(LogProbs.of(log_p_RV.clone(), log_q_RV), 0.0, whole)
        for place, k in enumerate(ks):
            top = _likeliest(log_p_RV, k, temperature)
            listed_R, listed_grad_RV = listed(top, log_q_RV, whole)
            error = (listed_grad_RV - grad_RV).square().sum()
            found = (full_R.sum(), listed_R.sum(), top.tail_N.sum(), error, grad_RV.square().sum())
            sums[place] += torch.stack(found).double().cpu()
    count = max(1, int((mask_N != 0).sum()))
    tiny = torch.finfo(sums.dtype).tiny
    means, errors = (sums[:, :3] / count).tolist(), (sums[:, 3] / sums[:, 4].clamp(min=tiny)).sqrt().tolist()
    pairs = zip(ks, means, errors, strict=True)
    return [TopKBias(k, full, listed, tail, error) for k, (full, listed, tail), error in pairs]


def _likeliest(log_p_RV: Tensor, k: int, temperature: float) -> TopK:
    log_probs_RK, ids_RK = log_p_RV.topk(min(k, log_p_RV.shape[-1]))
    tail_R = log_p_RV.exp().scatter_(-1, ids_RK, 0).sum(-1)
    return TopK(ids_RK, log_probs_RK, tail_R, temperature)


def _logits(chunk: int | None, mask_N: Tensor | None, *heads: HeadInput) -> Iterator[tuple[Tensor, ...]]:
    """Logits of the same tokens by each head, a block at a time."""
    chunk = chunk or heads[0].chunk
    device, count = heads[0].hidden_ND.device, len(heads[0].hidden_ND)
    kept_M = torch.arange(count, device=device) if mask_N is None else mask_N.nonzero()[:, 0]
    ready = [HeadProjection(head.plain(), min(chunk, len(kept_M))) for head in heads]
    for rows_C in torch.split(kept_M, chunk):
        products = [head.products(rows_C) for head in ready]
        for some in blocks(products[0]):
            yield tuple(head.logits(x_CV[some]) for head, x_CV in zip(ready, products, strict=True))
