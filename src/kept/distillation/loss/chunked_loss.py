"""The loss of a batch from hidden states, with gradients computed during the forward.

For each chunk of tokens, teacher and student logits are computed, the losses are added up, and the gradient G in the
student's logits, in closed form (`divergences.py`), overwrites the student's logits. G is at once multiplied into the
gradients of the hidden states, G W, and of the head, G^T x. The logits of a whole batch are never held, and no logits
are computed twice. Products run in the dtype of a plain product; softmax, losses and sums in at least float32.

Shapes: N tokens, M tokens that count, C tokens of a chunk, R tokens of a block, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kept.distillation.loss.objective import Objective, token_losses
from kept.distillation.loss.output_head import HeadInput, HeadProjection, at_least_float32, blocks
from kept.distillation.loss.top_k import TopK
from kept.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, eq=False)
class Losses:
    """Mean losses over the tokens that count.

    `total` is the objective, differentiable; 0 without tokens. `means` are detached, in nats per token, without weights
    and without temperature^2: `ce` always, and each divergence whose weight is not 0. `agreement` is the fraction of
    tokens at which student and teacher have the same most likely token; None without a teacher. `tokens` is the number
    of tokens.
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
) -> Losses:
    """Return the objective's mean over tokens whose mask is not 0; the others are neither computed nor read.

    Gradients are computed only if grad mode is on, and only for inputs that require one. `chunk` is the number of
    tokens whose logits are held at a time. If one head has more rows, they are padding: both distributions are those
    over the rows that both have. Raises InputError if objective, teacher and student do not fit together.
    """
    _check(teacher, objective)
    if isinstance(teacher, HeadInput):
        student, teacher = student.first(teacher.vocabulary), teacher.first(student.vocabulary)
    student = student.with_normalised_rows()
    inputs = (student.hidden_ND, student.weight_VD, student.bias_V)
    wanted = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in inputs]
    chunk = chunk or student.chunk
    with torch.no_grad():
        counted_M = mask_N.nonzero()[:, 0]
        tokens = min(chunk, len(counted_M))
        sums = _ChunkSums(HeadProjection(student, tokens), _teacher_projection(teacher, tokens), wanted)
        with torch.autocast(student.hidden_ND.device.type, enabled=False):
            for rows_C in torch.split(counted_M, chunk):
                sums.add(rows_C, targets_N, objective)
            means = {name: value / max(1, len(counted_M)) for name, value in sums.values.items()}
            total = objective.total(means)
    loss: Tensor = _PrecomputedGradient.apply(total, sums.gradients, max(1, len(counted_M)), *inputs)  # type: ignore[no-untyped-call]
    agreement = means.pop("agreement", None)
    return Losses(loss, means, agreement, len(counted_M))


def _check(teacher: HeadInput | TopK | None, objective: Objective) -> None:
    if teacher is None and objective.needs_teacher:
        raise InputError("the objective has a divergence from a teacher, but there is no teacher; set its weight to 0")
    if not isinstance(teacher, TopK):
        return
    if objective.reverse_kl or objective.jsd:
        raise InputError("a cached teacher has its top-k tokens only, enough for `kl` and `ce`: use a running teacher")
    if objective.kl and teacher.temperature != objective.temperature:
        raise InputError(
            f"the teacher was cached at temperature {teacher.temperature}, the objective's is "
            f"{objective.temperature}: cache it again, or use the same temperature"
        )


def _teacher_projection(teacher: HeadInput | TopK | None, tokens: int) -> HeadProjection | TopK | None:
    return HeadProjection(teacher.with_normalised_rows(), tokens) if isinstance(teacher, HeadInput) else teacher


class _ChunkSums:
    """Sums over chunks: the losses' values, and the gradients that are wanted, not yet divided by the tokens."""

    def __init__(self, student: HeadProjection, teacher: HeadProjection | TopK | None, wanted: list[bool]) -> None:
        self.student, self.teacher = student, teacher
        self.values: dict[str, Tensor] = {}
        like = (student.hidden_ND, student.weight_VD, student.bias_V)
        self.gradients = [
            torch.zeros_like(x, dtype=at_least_float32(x[:0]).dtype) if want and x is not None else None
            for x, want in zip(like, wanted, strict=True)
        ]
        self.hidden_ND, self.weight_VD, self.bias_V = self.gradients

    def add(self, rows_C: Tensor, targets_N: Tensor, objective: Objective) -> None:
        """Add a chunk. Its products are overwritten with their gradient, block by block."""
        products_CV = self.student.products(rows_C)
        teacher_block = _block_reader(self.teacher, rows_C)
        for block in blocks(products_CV):
            logits_RV = self.student.logits(products_CV[block])
            values, gradient_RV = token_losses(logits_RV, teacher_block(block), targets_N[rows_C[block]], objective)
            for name, value_R in values.items():
                # Added in place: small tensors kept from each block would pin the memory between them.
                self.values.setdefault(name, value_R.new_zeros(())).add_(value_R.sum())
            if any(x is not None for x in self.gradients):
                products_CV[block] = self.student.gradient_in_products(gradient_RV, logits_RV)
        self._add_gradients(rows_C, products_CV)

    def _add_gradients(self, rows_C: Tensor, gradient_CV: Tensor) -> None:
        """Add the gradients of the head's inputs, given the gradient in the products."""
        if self.hidden_ND is not None:
            self.hidden_ND[rows_C] = (gradient_CV @ self.student.weight_VD).to(self.hidden_ND.dtype)
        if self.weight_VD is not None:
            hidden_CD = self.student.hidden_states(rows_C)
            if gradient_CV.dtype == self.weight_VD.dtype:
                self.weight_VD.addmm_(gradient_CV.T, hidden_CD)
            else:
                self.weight_VD += gradient_CV.T @ hidden_CD
        if self.bias_V is not None:
            self.bias_V += gradient_CV.sum(0, dtype=self.bias_V.dtype)


def _block_reader(teacher: HeadProjection | TopK | None, rows_C: Tensor) -> Callable[[slice], Tensor | TopK | None]:
    """Return a function from a block of a chunk to the teacher's logits or top-k tokens there."""
    if teacher is None:
        return lambda _: None
    if isinstance(teacher, TopK):
        return lambda block: teacher[rows_C[block]]
    products_CV = teacher.products(rows_C)
    return lambda block: teacher.logits(products_CV[block])


class _PrecomputedGradient(torch.autograd.Function):
    """A number whose gradients, times `count`, are known already. Its backward can run once."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: list[Tensor | None], count: int, *inputs: Tensor | None) -> Tensor:  # noqa: ANN401 - torch's
        """Return the number."""
        ctx.gradients, ctx.count = gradients, count
        ctx.dtypes = [None if x is None else x.dtype for x in inputs]
        return total.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's
        """Return the gradients, scaled in place: two copies of a head's gradient would need too much memory."""
        if ctx.gradients is None:
            raise RuntimeError("the backward of a chunked loss can run once; compute the loss again")
        gradients, ctx.gradients = ctx.gradients, None
        scaled = [None if x is None else x.mul_(grad / ctx.count) for x in gradients]
        typed = [None if x is None else x.to(dtype) for x, dtype in zip(scaled, ctx.dtypes, strict=True)]
        return None, None, None, *typed
