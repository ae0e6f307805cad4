"""Losses from whole logits in a few lines of torch: the reference for the chunked losses and their gradients.

Values are in nats per token, of distributions softened by `temperature`, without the factor temperature^2.
Shapes: N tokens, V vocabulary, K listed tokens.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from kept.distillation.loss.output_head import at_least_float32

if TYPE_CHECKING:
    from torch import Tensor


def forward_kl(teacher_NV: Tensor, student_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student), (N,)."""
    return _kl(_log_softmax(teacher_NV, temperature), _log_softmax(student_NV, temperature))


def reverse_kl(teacher_NV: Tensor, student_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(student || teacher), (N,)."""
    return forward_kl(student_NV, teacher_NV, temperature)


def jsd(teacher_NV: Tensor, student_NV: Tensor, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """Generalised Jensen-Shannon divergence, (N,), with 0 < beta < 1 (arXiv 2306.13649, equation 1).

    `beta KL(p || m) + (1 - beta) KL(q || m)` with `m = beta p + (1 - beta) q`. Divided by beta it tends to the forward
    KL as beta tends to 0; divided by 1 - beta, to the reverse KL as beta tends to 1.
    """
    log_p_NV, log_q_NV = _log_softmax(teacher_NV, temperature), _log_softmax(student_NV, temperature)
    log_m_NV = torch.logaddexp(log_p_NV + math.log(beta), log_q_NV + math.log1p(-beta))
    return beta * _kl(log_p_NV, log_m_NV) + (1 - beta) * _kl(log_q_NV, log_m_NV)


def cross_entropy(student_NV: Tensor, targets_N: Tensor) -> Tensor:
    """-log q(target), (N,), at temperature 1."""
    return functional.cross_entropy(at_least_float32(student_NV), targets_N, reduction="none")


def top_k_kl(
    ids_NK: Tensor, log_probs_NK: Tensor, tail_N: Tensor, student_NV: Tensor, temperature: float = 1.0
) -> Tensor:
    """Forward KL over K listed tokens and one bucket for all others, (N,)."""
    log_q_NV = _log_softmax(student_NV, temperature)
    log_p_NK, tail_N = at_least_float32(log_probs_NK), at_least_float32(tail_N)
    rest_N = log_q_NV.scatter(-1, ids_NK, -math.inf).exp().sum(-1).clamp(min=torch.finfo(log_q_NV.dtype).tiny)
    return _kl(log_p_NK, log_q_NV.gather(-1, ids_NK)) + torch.xlogy(tail_N, tail_N / rest_N)


def _log_softmax(logits_NV: Tensor, temperature: float) -> Tensor:
    return functional.log_softmax(at_least_float32(logits_NV) / temperature, dim=-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)
