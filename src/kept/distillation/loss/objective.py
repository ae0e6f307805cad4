"""The loss on logits: a weighted sum of divergences from the teacher and the cross-entropy with the text.

The cross-entropy is -log q(target) at temperature 1; its gradient in the student's logits is q - onehot(target).
Shapes: R tokens, V vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kept.distillation.loss.divergences import DIVERGENCES, SoftenedPair, top_k_kl
from kept.distillation.loss.top_k import TopK
from kept.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Objective:
    """Weights of forward KL, reverse KL, JSD(beta) and cross-entropy.

    The divergences are those of distributions softened by `temperature`, times its square (arXiv 1503.02531, section
    2), so that the scale of the gradient hardly depends on the temperature. The cross-entropy is always at temperature
    1. All weights may be 0, for a run with a hidden-state loss only. Raises InputError for a value out of range.
    """

    kl: float = 1.0
    reverse_kl: float = 0.0
    jsd: float = 0.0
    jsd_beta: float = 0.5
    ce: float = 0.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the values."""
        for name, weight in {**self.divergences, "ce": self.ce}.items():
            if not 0 <= weight < math.inf:
                raise InputError(f"the weight of {name} is {weight}, it must be 0 or above")
        if not 0 < self.jsd_beta < 1:
            raise InputError(
                f"jsd_beta is {self.jsd_beta}, it must be between 0 and 1; the limits are `kl` and `reverse_kl`"
            )
        if not 0 < self.temperature < math.inf:
            raise InputError(f"the temperature is {self.temperature}, it must be above 0")

    @property
    def divergences(self) -> dict[str, float]:
        """The weights of the losses that need a teacher."""
        return {"kl": self.kl, "reverse_kl": self.reverse_kl, "jsd": self.jsd}

    @property
    def needs_teacher(self) -> bool:
        """Whether the weight of any divergence is not 0."""
        return any(self.divergences.values())

    def total(self, means: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of mean losses."""
        scale = self.temperature**2
        parts = [means["ce"] * self.ce, *(means[n] * (scale * w) for n, w in self.divergences.items() if w)]
        return torch.stack(parts).sum()


def token_losses(
    student_RV: Tensor, teacher: Tensor | TopK | None, targets_R: Tensor, objective: Objective
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the values by name, (R,) each, and the gradient of their weighted sum in the student's logits, (R, V).

    Values have no weight and no temperature^2. They include the cross-entropy whatever its weight and, with a teacher,
    `agreement`: 1 if student and teacher have the same most likely token.
    """
    log_q_RV = student_RV.log_softmax(-1)
    values = {"ce": -log_q_RV.gather(-1, targets_R[:, None])[:, 0]}
    if teacher is not None:
        values["agreement"] = _agreement(student_RV, teacher)
    tau = objective.temperature
    softened_RV = log_q_RV if tau == 1 else (student_RV / tau).log_softmax(-1)
    divergences, gradient_RV = _divergences(softened_RV, teacher if objective.needs_teacher else None, objective)
    _scale(gradient_RV, tau)  # temperature^2 of the objective, divided by the temperature in u = logits / temperature
    if objective.ce:
        gradient_RV.add_(log_q_RV.exp(), alpha=objective.ce)
        gradient_RV.scatter_add_(-1, targets_R[:, None], gradient_RV.new_full((len(targets_R), 1), -objective.ce))
    return {**values, **divergences}, gradient_RV


def _divergences(
    log_q_RV: Tensor, teacher: Tensor | TopK | None, objective: Objective
) -> tuple[dict[str, Tensor], Tensor]:
    if teacher is None:
        return {}, torch.zeros_like(log_q_RV)
    if isinstance(teacher, TopK):
        value_R, gradient_RV = top_k_kl(teacher, log_q_RV)
        return {"kl": value_R}, _scale(gradient_RV, objective.kl)
    softened_RV = teacher if objective.temperature == 1 else teacher / objective.temperature
    pair = SoftenedPair.of(softened_RV.log_softmax(-1), log_q_RV)
    values: dict[str, Tensor] = {}
    gradients: list[Tensor] = []
    for name, weight in objective.divergences.items():
        if weight:
            values[name], gradient_RV = DIVERGENCES[name](pair, objective.jsd_beta)
            gradients.append(_scale(gradient_RV, weight))
    for other_RV in gradients[1:]:
        gradients[0].add_(other_RV)
    return values, gradients[0]


def _agreement(student_RV: Tensor, teacher: Tensor | TopK) -> Tensor:
    """Return 1 for each token at which the teacher's most likely token has the student's largest logit, else 0."""
    if isinstance(teacher, TopK):
        likeliest_R1 = teacher.ids_NK.gather(-1, teacher.log_probs_NK.argmax(-1, keepdim=True))
    else:
        likeliest_R1 = teacher.max(-1, keepdim=True).indices
    return (student_RV.gather(-1, likeliest_R1)[:, 0] == student_RV.amax(-1)).to(student_RV.dtype)


def _scale(x: Tensor, factor: float) -> Tensor:
    return x if factor == 1 else x.mul_(factor)
