"""What a student is asked for, its value token by token, and the gradient with respect to logits in closed form.

With u = student logits / temperature, p and q the softened distributions of teacher and student, d = log(p / q):

    forward KL   sum p d                                      gradient in u   q - p
    reverse KL   -sum q d                                                     q (-d - KL(q || p))
    JSD(beta)    beta sum p (d + r) + (1 - beta) sum q r                      (1 - beta) q (r - sum q r)
                 with r = log(q / m) = -log(beta exp(d) + 1 - beta)
    top-k        sum over listed p (log p - log q)            listed          q s - p
                 + t log(t / rest)                            others          q (s - t / rest)
                 with t the teacher's tail, rest the student's, s = sum of listed p + t
    CE           -log q(target), at temperature 1                             q - onehot

Sums over the vocabulary go over ranks where it is split. Shapes: R tokens, V this rank's part of the vocabulary,
K listed tokens.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kept.distillation.loss.reference import wide
from kept.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.distillation.loss.vocabulary import VocabularyShard


@dataclass(frozen=True)
class Objective:
    """A weighted sum of losses: forward KL, reverse KL, JSD(beta) and cross-entropy.

    The divergences are taken between distributions softened by `temperature` and counted times its square (arXiv
    1503.02531), so that a temperature changes what is matched and hardly how strongly, and the weight of the
    cross-entropy, which is always at temperature 1, means the same beside any of them. All may be 0, where only the
    streams are matched. Raises InputError where a number makes no sense.
    """

    kl: float = 1.0
    reverse: float = 0.0
    jsd: float = 0.0
    beta: float = 0.5
    ce: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the numbers."""
        weights = {**self.divergences, "ce": self.ce}
        for name, weight in weights.items():
            if not 0 <= weight < math.inf:
                raise InputError(f"the weight of {name} is {weight}, it must be 0 or above")
        if not 0 < self.beta < 1:
            raise InputError(f"beta is {self.beta}, it must be between 0 and 1; its limits are `kl` and `reverse`")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"the temperature is {self.temperature}, it must be above 0")

    @property
    def divergences(self) -> dict[str, float]:
        """The weights of what needs a teacher."""
        return {"kl": self.kl, "reverse": self.reverse, "jsd": self.jsd}

    @property
    def needs_teacher(self) -> bool:
        """Whether any does."""
        return any(self.divergences.values())

    def total(self, means: dict[str, Tensor]) -> Tensor:
        """The weighted sum of what was measured."""
        scale = self.temperature**2
        parts = [means["ce"] * self.ce, *(means[n] * (scale * w) for n, w in self.divergences.items() if w)]
        return torch.stack(parts).sum()


@dataclass(frozen=True, eq=False)
class TopK:
    """What a cache holds of a teacher: log-probabilities of its K likeliest tokens and the mass of all others.

    Ids (N, K) are of the whole vocabulary, also where the student's is split. `temperature` is what the teacher's
    logits were divided by.
    """

    ids_NK: Tensor
    log_probs_NK: Tensor
    tail_N: Tensor
    temperature: float = 1.0

    def __getitem__(self, rows: Tensor | slice) -> TopK:
        """Some of its tokens."""
        return TopK(self.ids_NK[rows], self.log_probs_NK[rows], self.tail_N[rows], self.temperature)


@dataclass(frozen=True, eq=False)
class LogProbs:
    """Softened distributions p and q of teacher and student, and d = log(p / q), each (R, V)."""

    p_RV: Tensor
    q_RV: Tensor
    d_RV: Tensor

    @classmethod
    def of(cls, log_p_RV: Tensor, log_q_RV: Tensor) -> LogProbs:
        """From log-probabilities; the first are overwritten."""
        return cls(log_p_RV.exp(), log_q_RV.exp(), log_p_RV.sub_(log_q_RV))


def measured(
    student_RV: Tensor,
    teacher: Tensor | TopK | None,
    targets_R: Tensor,
    objective: Objective,
    vocabulary: VocabularyShard,
) -> tuple[dict[str, Tensor], Tensor]:
    """Values by name, (R,) each, and the gradient of their weighted sum in the student's logits.

    Whatever its weight there is the cross-entropy, and with a teacher the agreement: 1 where both have the same
    likeliest token.
    """
    tau = objective.temperature
    log_q_RV = vocabulary.log_softmax(student_RV)
    values = {"ce": -vocabulary.gather(log_q_RV, targets_R[:, None])[:, 0]}
    if teacher is not None:
        values["agreement"] = _agreement(student_RV, teacher, vocabulary)
    softened_RV = log_q_RV if tau == 1 else vocabulary.log_softmax(student_RV / tau)
    found, grad_RV = _divergences(softened_RV, teacher if objective.needs_teacher else None, objective, vocabulary)
    _scale(grad_RV, tau)  # temperature^2 for the convention, one less for the logits that were divided by it
    if objective.ce:
        grad_RV.add_(log_q_RV.exp(), alpha=objective.ce)
        vocabulary.add(grad_RV, targets_R[:, None], grad_RV.new_full((len(targets_R), 1), -objective.ce))
    return {**values, **found}, grad_RV


def _divergences(
    log_q_RV: Tensor, teacher: Tensor | TopK | None, objective: Objective, vocabulary: VocabularyShard
) -> tuple[dict[str, Tensor], Tensor]:
    if teacher is None:
        return {}, torch.zeros_like(log_q_RV)
    if isinstance(teacher, TopK):
        value_R, grad_RV = listed(teacher, log_q_RV, vocabulary)
        return {"kl": value_R}, _scale(grad_RV, objective.kl)
    teacher_RV = teacher if objective.temperature == 1 else teacher / objective.temperature
    pair = LogProbs.of(vocabulary.log_softmax(teacher_RV), log_q_RV)
    values: dict[str, Tensor] = {}
    grads: list[Tensor] = []
    for name, weight in objective.divergences.items():
        if weight:
            values[name], grad_RV = _DIVERGENCES[name](pair, objective.beta, vocabulary)
            grads.append(_scale(grad_RV, weight))
    for more_RV in grads[1:]:
        grads[0].add_(more_RV)
    return values, grads[0]


def forward(pair: LogProbs, _: float, vocabulary: VocabularyShard) -> tuple[Tensor, Tensor]:
    """KL(p || q) and its gradient."""
    return vocabulary.sum(_dot(pair.p_RV, pair.d_RV)), pair.q_RV - pair.p_RV


def reverse(pair: LogProbs, _: float, vocabulary: VocabularyShard) -> tuple[Tensor, Tensor]:
    """KL(q || p) and its gradient."""
    value_R = -vocabulary.sum(_dot(pair.q_RV, pair.d_RV))
    return value_R, (pair.d_RV + value_R[:, None]).neg_().mul_(pair.q_RV)


def jsd(pair: LogProbs, beta: float, vocabulary: VocabularyShard) -> tuple[Tensor, Tensor]:
    """JSD(beta) and its gradient."""
    there = torch.tensor(math.log1p(-beta), dtype=pair.d_RV.dtype, device=pair.d_RV.device)
    r_RV = torch.logaddexp(pair.d_RV + math.log(beta), there).neg_()
    of_q_R = vocabulary.sum(_dot(pair.q_RV, r_RV))
    of_p_R = vocabulary.sum(_dot(pair.p_RV, pair.d_RV + r_RV))
    return beta * of_p_R + (1 - beta) * of_q_R, r_RV.sub_(of_q_R[:, None]).mul_(pair.q_RV).mul_(1 - beta)


_DIVERGENCES: dict[str, Callable[[LogProbs, float, VocabularyShard], tuple[Tensor, Tensor]]] = {
    "kl": forward,
    "reverse": reverse,
    "jsd": jsd,
}


def listed(teacher: TopK, log_q_RV: Tensor, vocabulary: VocabularyShard) -> tuple[Tensor, Tensor]:
    """The forward KL of the listed tokens and one bucket for the tail, and its gradient."""
    log_p_RK, tail_R = wide(teacher.log_probs_NK), wide(teacher.tail_N)
    p_RK, q_RV = log_p_RK.exp(), log_q_RV.exp()
    one_RK = torch.ones_like(p_RK)
    others_RV = q_RV * vocabulary.add(torch.ones_like(q_RV), teacher.ids_NK, -one_RK)
    rest_R = vocabulary.sum(others_RV.sum(-1)).clamp(min=torch.finfo(q_RV.dtype).tiny)
    value_R = _dot(p_RK, log_p_RK - vocabulary.gather(log_q_RV, teacher.ids_NK)) + tail_R.xlogy(tail_R / rest_R)
    grad_RV = q_RV.mul_((p_RK.sum(-1) + tail_R)[:, None]).sub_(others_RV.mul_((tail_R / rest_R)[:, None]))
    return value_R, vocabulary.add(grad_RV, teacher.ids_NK, -p_RK)


def _agreement(student_RV: Tensor, teacher: Tensor | TopK, vocabulary: VocabularyShard) -> Tensor:
    """1 where the teacher's likeliest token is the student's too."""
    best_R = vocabulary.max(student_RV.amax(-1))
    if isinstance(teacher, TopK):
        first_R1 = teacher.ids_NK.gather(-1, teacher.log_probs_NK.argmax(-1, keepdim=True))
        return (vocabulary.gather(student_RV, first_R1)[:, 0] == best_R).to(student_RV.dtype)
    top_R, place_R = teacher.max(-1)
    both_R = (student_RV.gather(-1, place_R[:, None])[:, 0] == best_R) & (top_R == vocabulary.max(top_R.clone()))
    return vocabulary.max(both_R.to(student_RV.dtype))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)


def _scale(x: Tensor, by: float) -> Tensor:
    return x if by == 1 else x.mul_(by)
