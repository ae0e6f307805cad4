"""Divergences between teacher and student: the value of each token and its gradient in closed form.

With u = student logits / temperature, p and q the softened distributions of teacher and student, d = log(p / q):

    divergence   value                                        gradient in u
    forward KL   sum p d                                      q - p
    reverse KL   -sum q d                                     q (-d - KL(q || p))
    JSD(beta)    beta sum p (d + r) + (1 - beta) sum q r      (1 - beta) q (r - sum q r)
                 with r = log(q / m) = -log(beta exp(d) + 1 - beta)
    top-k KL     sum over listed p (log p - log q)            listed: q s - p
                 + t log(t / rest)                            others: q (s - t / rest)
                 with t the teacher's tail, rest the student's, s = sum of listed p + t

JSD is the generalised Jensen-Shannon divergence of arXiv 2306.13649, equation 1. Values are in nats.
Shapes: R tokens, V vocabulary, K listed tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kept.distillation.loss.output_head import at_least_float32

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from kept.distillation.loss.top_k import TopK


@dataclass(frozen=True, eq=False)
class SoftenedPair:
    """Softened distributions p of the teacher and q of the student, and d = log(p / q), each (R, V)."""

    p_RV: Tensor
    q_RV: Tensor
    d_RV: Tensor

    @classmethod
    def of(cls, log_p_RV: Tensor, log_q_RV: Tensor) -> SoftenedPair:
        """Make the pair from log-probabilities. Overwrites `log_p_RV`."""
        return cls(log_p_RV.exp(), log_q_RV.exp(), log_p_RV.sub_(log_q_RV))


def forward_kl(pair: SoftenedPair) -> tuple[Tensor, Tensor]:
    """Return KL(p || q), (R,), and its gradient, (R, V)."""
    return _dot(pair.p_RV, pair.d_RV), pair.q_RV - pair.p_RV


def reverse_kl(pair: SoftenedPair) -> tuple[Tensor, Tensor]:
    """Return KL(q || p), (R,), and its gradient, (R, V)."""
    value_R = -_dot(pair.q_RV, pair.d_RV)
    return value_R, (pair.d_RV + value_R[:, None]).neg_().mul_(pair.q_RV)


def jsd(pair: SoftenedPair, beta: float) -> tuple[Tensor, Tensor]:
    """Return JSD(beta), (R,), and its gradient, (R, V)."""
    log_rest = torch.tensor(math.log1p(-beta), dtype=pair.d_RV.dtype, device=pair.d_RV.device)
    r_RV = torch.logaddexp(pair.d_RV + math.log(beta), log_rest).neg_()
    student_R = _dot(pair.q_RV, r_RV)
    teacher_R = _dot(pair.p_RV, pair.d_RV + r_RV)
    gradient_RV = r_RV.sub_(student_R[:, None]).mul_(pair.q_RV).mul_(1 - beta)
    return beta * teacher_R + (1 - beta) * student_R, gradient_RV


DIVERGENCES: Mapping[str, Callable[[SoftenedPair, float], tuple[Tensor, Tensor]]] = {
    "kl": lambda pair, _: forward_kl(pair),
    "reverse_kl": lambda pair, _: reverse_kl(pair),
    "jsd": jsd,
}
"""Divergences from a full teacher distribution, by setting; the second argument is beta."""


def top_k_kl(teacher: TopK, log_q_RV: Tensor) -> tuple[Tensor, Tensor]:
    """Return the forward KL of the listed tokens and one bucket for all others, (R,), and its gradient, (R, V).

    By the log-sum inequality it is at most the full KL; the difference is the tail's mass times the KL within the tail.
    """
    log_p_RK, tail_R = at_least_float32(teacher.log_probs_NK), at_least_float32(teacher.tail_N)
    p_RK, q_RV = log_p_RK.exp(), log_q_RV.exp()
    others_RV = q_RV * torch.ones_like(q_RV).scatter_add_(-1, teacher.ids_NK, -torch.ones_like(p_RK))
    rest_R = others_RV.sum(-1).clamp(min=torch.finfo(q_RV.dtype).tiny)
    value_R = _dot(p_RK, log_p_RK - log_q_RV.gather(-1, teacher.ids_NK)) + tail_R.xlogy(tail_R / rest_R)
    gradient_RV = q_RV.mul_((p_RK.sum(-1) + tail_R)[:, None]).sub_(others_RV.mul_((tail_R / rest_R)[:, None]))
    return value_R, gradient_RV.scatter_add_(-1, teacher.ids_NK, -p_RK)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)
