"""The error of the top-k KL against the full forward KL. Shapes: N tokens, R tokens of a block, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kept.distillation.loss.divergences import SoftenedPair, forward_kl, top_k_kl
from kept.distillation.loss.top_k import TopK, logits_by_block

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from kept.distillation.loss.output_head import HeadInput


@dataclass(frozen=True)
class TopKBias:
    """The top-k KL beside the full forward KL, means over tokens.

    `full` and `listed` are the two losses in nats, `tail` is the probability mass that is not listed, `gradient` is the
    relative error of the gradient in the student's logits.
    """

    k: int
    full: float
    listed: float
    tail: float
    gradient: float

    @property
    def bias(self) -> float:
        """The top-k KL minus the full KL, in nats; at most 0, apart from rounding."""
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
    """Measure the top-k KL for each k of `ks`, over the tokens whose mask is not 0."""
    sums_K5 = torch.zeros(len(ks), 5, dtype=torch.float64)
    for student_RV, teacher_RV in logits_by_block(chunk, mask_N, student, teacher):
        log_p_RV, log_q_RV = ((x / temperature).log_softmax(-1) for x in (teacher_RV, student_RV))
        sums_K5 += torch.stack([_block_sums(log_p_RV, log_q_RV, k, temperature) for k in ks])
    count = max(1, int((mask_N != 0).sum()))
    means_K3 = (sums_K5[:, :3] / count).tolist()
    errors_K = (sums_K5[:, 3] / sums_K5[:, 4].clamp(min=torch.finfo(sums_K5.dtype).tiny)).sqrt().tolist()
    found = zip(ks, means_K3, errors_K, strict=True)
    return [TopKBias(k, full, listed, tail, error) for k, (full, listed, tail), error in found]


def _block_sums(log_p_RV: Tensor, log_q_RV: Tensor, k: int, temperature: float) -> Tensor:
    """Return sums over a block, (5,): full KL, top-k KL, tail, squared gradient error, squared gradient."""
    top = TopK.of(log_p_RV, k, temperature)
    full_R, gradient_RV = forward_kl(SoftenedPair.of(log_p_RV.clone(), log_q_RV))
    listed_R, listed_gradient_RV = top_k_kl(top, log_q_RV)
    error = (listed_gradient_RV - gradient_RV).square().sum()
    found = (full_R.sum(), listed_R.sum(), top.tail_N.sum(), error, gradient_RV.square().sum())
    return torch.stack(found).double().cpu()
