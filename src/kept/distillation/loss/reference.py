"""How far a student is from its teacher, token by token: pure functions of logits and of hidden states.

Every function returns one value a token and never a mean; `masked_mean` makes one. Divergences are in nats. With a
temperature they are the nats between the two softened distributions, `softmax(logits / temperature)`, as they are:
what is reported is a divergence. The factor temperature^2 that keeps gradients the size they have at 1 (arXiv
1503.02531, section 2) belongs to a weighted sum, and `chunked.Objective` puts it there.

Everything is computed in at least float32. Shapes: N tokens, V vocabulary, K listed tokens, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention


def wide(x: Tensor) -> Tensor:
    """In at least float32, where sums over a vocabulary keep their digits."""
    return x if x.dtype == torch.float64 else x.float()


def forward_kl(teacher_NV: Tensor, student_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(teacher || student) = sum p log(p / q), (N,)."""
    log_p_NV, log_q_NV = _log_softmax(teacher_NV, temperature), _log_softmax(student_NV, temperature)
    return _kl(log_p_NV, log_q_NV)


def reverse_kl(teacher_NV: Tensor, student_NV: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(student || teacher) = sum q log(q / p), (N,)."""
    return forward_kl(student_NV, teacher_NV, temperature)


def jsd(teacher_NV: Tensor, student_NV: Tensor, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    """Generalised Jensen-Shannon divergence, (N,), with 0 < beta < 1 (arXiv 2306.13649, equation 1).

    `beta KL(p || m) + (1 - beta) KL(q || m)` with `m = beta p + (1 - beta) q`. Divided by beta it tends to the forward
    KL for beta to 0, divided by 1 - beta to the reverse KL for beta to 1.
    """
    log_p_NV, log_q_NV = _log_softmax(teacher_NV, temperature), _log_softmax(student_NV, temperature)
    log_m_NV = torch.logaddexp(log_p_NV + math.log(beta), log_q_NV + math.log1p(-beta))
    return beta * _kl(log_p_NV, log_m_NV) + (1 - beta) * _kl(log_q_NV, log_m_NV)


def cross_entropy(student_NV: Tensor, targets_N: Tensor) -> Tensor:
    """`-log q(target)`, (N,), always at temperature 1."""
    return F.cross_entropy(wide(student_NV), targets_N, reduction="none")


def top_k_kl(
    ids_NK: Tensor, log_probs_NK: Tensor, tail_N: Tensor, student_NV: Tensor, temperature: float = 1.0
) -> Tensor:
    """Forward KL over K listed tokens and one bucket for all others, (N,).

    `tail_N` is what the teacher gives the others together. By the log-sum inequality it is at most the full KL; what
    it lacks is the tail's mass times the KL within the tail.
    """
    log_q_NV = _log_softmax(student_NV, temperature)
    log_p_NK, tail_N = wide(log_probs_NK), wide(tail_N)
    rest_N = log_q_NV.scatter(-1, ids_NK, -math.inf).exp().sum(-1).clamp(min=torch.finfo(log_q_NV.dtype).tiny)
    return _kl(log_p_NK, log_q_NV.gather(-1, ids_NK)) + torch.xlogy(tail_N, tail_N / rest_N)


def hidden_mse(teacher: Tensor, student: Tensor) -> Tensor:
    """Squared error over the teacher's square, each token by itself: (..., D) to (...), without unit.

    A few tokens have a stream a hundred times the others' (the first of a sequence, as a rule); normalised by the
    mean over all tokens they would be the whole loss.
    """
    wanted, found = wide(teacher), wide(student)
    return (found - wanted).square().sum(-1) / wanted.square().sum(-1).clamp(min=torch.finfo(wanted.dtype).tiny)


def hidden_cosine(teacher: Tensor, student: Tensor) -> Tensor:
    """One minus the cosine between the two, each token by itself: (..., D) to (...), from 0 to 2."""
    return 1 - F.cosine_similarity(wide(teacher), wide(student), dim=-1)


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """The mean where the mask is not 0; 0 where it is 0 everywhere. What is masked may be anything, NaN too."""
    kept = mask != 0
    return values.masked_fill(~kept, 0).sum() / kept.sum().clamp(min=1)


def _log_softmax(logits_NV: Tensor, temperature: float) -> Tensor:
    return F.log_softmax(wide(logits_NV) / temperature, dim=-1)


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(-1)
