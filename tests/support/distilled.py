"""Students, teachers and objectives; what chunked losses give, and what the plain computation does."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from unittest.mock import patch

import torch

from kept.distillation.loss import chunk_size
from kept.distillation.loss.chunked_loss import Losses, chunked_loss
from kept.distillation.loss.hidden_states import masked_mean
from kept.distillation.loss.output_head import HeadInput, at_least_float32
from kept.distillation.loss.top_k import TopK
from kept.nn.decoder import project
from support import plain_losses

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.distillation.loss.objective import Objective
    from kept.ir.spec import Head


def logits_of(given: HeadInput) -> torch.Tensor:
    return at_least_float32(project(given.hidden_ND, given.weight_VD, given.bias_V, given.head))


def plain_loss(
    student: HeadInput,
    teacher: HeadInput | TopK | None,
    targets: torch.Tensor,
    mask: torch.Tensor,
    objective: Objective,
) -> torch.Tensor:
    """The objective from whole logits, its gradients left to autograd."""
    tau, ours = objective.temperature, logits_of(student)
    parts = [(objective.ce, plain_losses.cross_entropy(ours, targets.clamp(min=0)))]
    if isinstance(teacher, TopK):
        found = plain_losses.top_k_kl(teacher.ids_NK, teacher.log_probs_NK, teacher.tail_N, ours, tau)
        parts.append((tau**2 * objective.kl, found))
    elif teacher is not None:
        theirs = logits_of(teacher).detach()
        parts.append((tau**2 * objective.kl, plain_losses.forward_kl(theirs, ours, tau)))
        parts.append((tau**2 * objective.reverse_kl, plain_losses.reverse_kl(theirs, ours, tau)))
        parts.append((tau**2 * objective.jsd, plain_losses.jsd(theirs, ours, objective.jsd_beta, tau)))
    return sum((weight * masked_mean(value, mask) for weight, value in parts if weight), torch.zeros(()))


@dataclass(frozen=True, eq=False)
class Case:
    student: HeadInput
    teacher: HeadInput
    targets: torch.Tensor
    mask: torch.Tensor
    objective: Objective
    chunk: int
    block: int

    def to(self, dtype: torch.dtype) -> Case:
        return replace(self, student=cast(self.student, dtype), teacher=cast(self.teacher, dtype))


def cast(given: HeadInput, dtype: torch.dtype) -> HeadInput:
    """With leaves of its own."""

    def leaf(x: torch.Tensor) -> torch.Tensor:
        return x.detach().to(dtype, copy=True).requires_grad_()

    bias = None if given.bias_V is None else leaf(given.bias_V)
    return HeadInput(leaf(given.hidden_ND), leaf(given.weight_VD), bias, given.head)


def head_input(
    count: int, width: int, vocabulary: int, head: Head, random: torch.Generator, size: float = 3.0
) -> HeadInput:
    """Logits of about that size, before the head's multiplier."""
    hidden = torch.randn(count, width, generator=random, dtype=torch.float64)
    weight = size * width**-0.5 * torch.randn(vocabulary, width, generator=random, dtype=torch.float64)
    bias = torch.randn(vocabulary, generator=random, dtype=torch.float64) if head.bias else None
    return HeadInput(hidden, weight, bias, head)


def leaves(given: HeadInput) -> list[torch.Tensor]:
    return [x for x in (given.hidden_ND, given.weight_VD, given.bias_V) if x is not None]


def run(
    loss: Callable[..., torch.Tensor | Losses], case: Case, teacher: HeadInput | TopK | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """The value, and the gradients of a third of it."""
    found = loss(case.student, teacher, case.targets, case.mask, case.objective)
    total = found.total if isinstance(found, Losses) else found
    zeros = [torch.zeros_like(x) for x in leaves(case.student)]
    made = torch.autograd.grad(total / 3, leaves(case.student), allow_unused=True)
    return total.detach(), [zero if x is None else x for x, zero in zip(made, zeros, strict=True)]


def error(found: tuple[torch.Tensor, list[torch.Tensor]], wanted: tuple[torch.Tensor, list[torch.Tensor]]) -> float:
    """The largest relative error of value and gradients.

    What is smaller is taken relative to a nat, and to a gradient of a tenth: logits of a few nats are subtracted from
    one another, and what is left cannot be nearer than their own roundings.
    """
    value = float((found[0].double() - wanted[0].double()).abs() / wanted[0].double().abs().clamp(min=1))
    pairs = zip(found[1], wanted[1], strict=True)
    gradients = [float((a.double() - b.double()).norm() / b.double().norm().clamp(min=0.1)) for a, b in pairs]
    return max((value, *gradients))


def chunked(case: Case) -> Callable[..., Losses]:
    def loss(*given: object) -> Losses:
        with patch.object(chunk_size, "BLOCK", case.block):
            return chunked_loss(*given, chunk=case.chunk)  # type: ignore[arg-type, misc]

    return loss
