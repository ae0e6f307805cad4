"""The KL divergence of whole students from their teacher, on held-out text."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kept.distillation.loss.chunked_loss import chunked_loss
from kept.distillation.loss.objective import Objective
from kept.distillation.train.load_backbone import load_backbone
from kept.distillation.train.process_group import Ranks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.distillation.data.packing import Batch
    from kept.distillation.loss.chunked_loss import Losses
    from kept.distillation.loss.output_head import HeadInput
    from kept.distillation.train.backbone import Backbone
    from kept.ir.program import Program

KL_TOKENS = 4096
"""Tokens of each source on which whole models are compared."""


@torch.no_grad()
def teacher_kl(
    students: Sequence[Program], teacher: Program, batches: Sequence[Batch], dtype: torch.dtype, device: torch.device
) -> list[float]:
    """Return the mean KL(teacher | student) of each student, in nats per token. One model is in memory at a time."""
    alone = Ranks(0, 1, device)
    moved = [batch.to(device) for batch in batches]
    model = load_backbone(teacher, dtype, alone)
    wanted = [model.output(batch).head for batch in moved]
    del model
    found = []
    for student in students:
        model = load_backbone(student, dtype, alone)
        losses = [_losses(model, batch, head) for batch, head in zip(moved, wanted, strict=True)]
        tokens = sum(one.tokens for one in losses)
        found.append(sum(float(one.means["kl"]) * one.tokens for one in losses) / max(1, tokens))
    return found


def _losses(model: Backbone, batch: Batch, teacher: HeadInput) -> Losses:
    targets, mask = batch.targets_BT.flatten(), batch.mask_BT.flatten()
    return chunked_loss(model.output(batch).head, teacher, targets, mask, Objective())
