"""Losses from hidden states, with gradients made on the way forward: no logits of a whole batch, no second product.

For each chunk of tokens the logits of teacher and student are made, the losses and the gradient in the student's
logits G in closed form (`closed.py`) written over them, and G is at once multiplied into the gradients of the hidden
states, G W, and of the head, G' x. What is left is a number whose gradients are known. Products run in the dtype that
a plain product would; softmax, losses and sums of gradients in at least float32.

Shapes: N tokens, C of them in a chunk, D width, V vocabulary (this rank's part, where it is split).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kept.distillation.loss.divergences import Objective, TopK, measured
from kept.distillation.loss.output_head import HeadInput, HeadProjection, blocks
from kept.distillation.loss.reference import wide
from kept.distillation.loss.vocabulary import VocabularyShard
from kept.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributed import ProcessGroup

__all__ = ["HeadInput", "Losses", "Objective", "TopK", "chunked_loss"]


@dataclass(frozen=True, eq=False)
class Losses:
    """`total` is differentiable: the objective over the tokens that count, 0 where none does.

    `means` are detached, in nats per token, each without its weight and without temperature^2: `ce` always, and the
    divergences whose weight is not 0. `agreement` is the fraction of tokens with the teacher's likeliest; None
    without a teacher. `tokens` says over how many.
    """

    total: Tensor
    means: dict[str, Tensor]
    agreement: Tensor | None
    tokens: int


def chunked_loss(
    student: HeadInput,
    teacher: HeadInput | TopK | None,
    targets_N: Tensor,
    mask_N: Tensor,
    objective: Objective,
    chunk: int | None = None,
    group: ProcessGroup | None = None,
) -> Losses:
    """The objective's mean over tokens whose mask is not 0; the others cost nothing and their content is not read.

    Where no gradient is wanted none is made. With a `group` each rank passes its consecutive rows of both heads (the
    same rows) and the same hidden states; all get the same losses, the whole gradient of the hidden states, and that
    of their own rows. Raises InputError where objective, teacher and student do not fit together.
    """
    _check(student, teacher, objective)
    plain = student.plain()
    inputs = (plain.hidden_ND, plain.weight_VD, plain.bias_V)
    device = plain.hidden_ND.device
    with torch.no_grad():
        kept_M = mask_N.nonzero()[:, 0]
        chunk = chunk or plain.chunk
        rows = min(chunk, len(kept_M))
        ours = HeadProjection(plain, rows)
        theirs = HeadProjection(teacher.plain(), rows) if isinstance(teacher, HeadInput) else teacher
    wanted = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in inputs]
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        vocabulary = VocabularyShard.of(plain.vocabulary, group, device)
        sums = _Sums(ours, wanted)
        for rows_C in torch.split(kept_M, chunk):
            sums.add(rows_C, theirs, targets_N, objective, vocabulary)
        means = {name: sum_ / max(1, len(kept_M)) for name, sum_ in sums.values.items()}
        if sums.hidden_ND is not None:
            vocabulary.sum(sums.hidden_ND)
        total = objective.total(means)
    known: Tensor = _PrecomputedGradient.apply(total, sums.gradients, max(1, len(kept_M)), *inputs)  # type: ignore[no-untyped-call]
    agreement = means.pop("agreement", None)
    return Losses(known, means, agreement, len(kept_M))


def _check(student: HeadInput, teacher: HeadInput | TopK | None, objective: Objective) -> None:
    if teacher is None and objective.needs_teacher:
        raise InputError("the objective has a divergence from a teacher and there is none: name one, or weigh it 0")
    if isinstance(teacher, HeadInput) and teacher.vocabulary != student.vocabulary:
        raise InputError(
            f"the teacher's head has {teacher.vocabulary} tokens, the student's {student.vocabulary}: "
            "only models with the same vocabulary can be compared"
        )
    if not isinstance(teacher, TopK):
        return
    if objective.reverse or objective.jsd:
        raise InputError("a cached teacher knows its likeliest tokens only, enough for `kl` and `ce`: use a live one")
    if objective.kl and teacher.temperature != objective.temperature:
        raise InputError(
            f"the teacher was cached at temperature {teacher.temperature}, the objective's is "
            f"{objective.temperature}: cache it anew, or use the same"
        )


class _Sums:
    """What is added up over chunks: values of tokens, and the gradients that somebody wants, not yet divided."""

    def __init__(self, student: HeadProjection, wanted: list[bool]) -> None:
        self.student, self.values = student, {}  # type: HeadProjection, dict[str, Tensor]
        like = (student.hidden_ND, student.weight_VD, student.bias_V)
        self.gradients = [
            torch.zeros_like(x, dtype=wide(x[:0]).dtype) if want and x is not None else None
            for x, want in zip(like, wanted, strict=True)
        ]
        self.hidden_ND, self.weight_VD, self.bias_V = self.gradients

    def add(
        self,
        rows_C: Tensor,
        teacher: HeadProjection | TopK | None,
        targets_N: Tensor,
        objective: Objective,
        vocabulary: VocabularyShard,
    ) -> None:
        """One chunk: its logits become their gradient, a block of rows at a time."""
        products_CV = self.student.products(rows_C)
        known = _reader(teacher, rows_C)
        whole = vocabulary.group is not None  # the same blocks on every rank
        for some in blocks(products_CV, whole=whole):
            logits_RV = self.student.logits(products_CV[some])
            values, grad_RV = measured(logits_RV, known(some), targets_N[rows_C[some]], objective, vocabulary)
            for name, value_R in values.items():
                # Added in place: small tensors kept from each block would pin the memory between them.
                self.values.setdefault(name, value_R.new_zeros(())).add_(value_R.sum())
            if any(x is not None for x in self.gradients):
                products_CV[some] = self.student.through(grad_RV, logits_RV)
        self.back(rows_C, products_CV)

    def back(self, rows_C: Tensor, grad_CV: Tensor) -> None:
        """Add what a gradient in the products is in the head's inputs."""
        if self.hidden_ND is not None:
            self.hidden_ND[rows_C] = (grad_CV @ self.student.weight_VD).to(self.hidden_ND.dtype)
        if self.weight_VD is not None:
            hidden_CD = self.student.rows(rows_C)
            if grad_CV.dtype == self.weight_VD.dtype:
                self.weight_VD.addmm_(grad_CV.T, hidden_CD)
            else:
                self.weight_VD += grad_CV.T @ hidden_CD
        if self.bias_V is not None:
            self.bias_V += grad_CV.sum(0, dtype=self.bias_V.dtype)


def _reader(teacher: HeadProjection | TopK | None, rows_C: Tensor) -> Callable[[slice], Tensor | TopK | None]:
    """What is known of the teacher at any part of a chunk."""
    if teacher is None:
        return lambda _: None
    if isinstance(teacher, TopK):
        return lambda some: teacher[rows_C[some]]
    products_CV = teacher.products(rows_C)
    return lambda some: teacher.logits(products_CV[some])


class _PrecomputedGradient(torch.autograd.Function):
    """A number whose gradients are known already, times `count`; backward hands them out, once."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: list[Tensor | None], count: int, *inputs: Tensor | None) -> Tensor:  # noqa: ANN401 - torch's
        """The number itself."""
        ctx.gradients, ctx.count = gradients, count
        ctx.dtypes = [None if x is None else x.dtype for x in inputs]
        return total.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's
        """The gradients, scaled in place: a head's is too large to hold twice."""
        if ctx.gradients is None:
            raise RuntimeError("the gradients of a chunked loss were handed out: compute it again")
        gradients, ctx.gradients = ctx.gradients, None
        scaled = [None if x is None else x.mul_(grad / ctx.count) for x in gradients]
        typed = [None if x is None else x.to(dtype) for x, dtype in zip(scaled, ctx.dtypes, strict=True)]
        return None, None, None, *typed
