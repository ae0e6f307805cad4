"""Locate NaN or Inf in a model's activations: the first part whose output is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kept.ir.tensors import WIDER
from kept.nn.model import project

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from kept.distillation.data.packing import Batch
    from kept.distillation.loss.output_head import HeadInput
    from kept.distillation.train.parallel import Backbone

POSITIONS = 512
"""Number of positions whose logits are held in memory at once."""


@torch.no_grad()
def faults(trunk: Backbone, batch: Batch) -> list[bool]:
    """Return for the embedding, each layer and the head whether its output on a batch has NaN or Inf.

    Only positions that count for the loss are checked.
    """
    counted_N = batch.mask_BT.flatten() != 0

    def found(head: HeadInput, streams: Sequence[Tensor]) -> list[bool]:
        return [*(_bad(x_BTD.flatten(0, 1)[counted_N]) for x_BTD in streams), _bad_logits(head, counted_N)]

    flags: list[bool] = trunk(batch, found, streams=True)
    return flags


def _bad_logits(head: HeadInput, counted_N: Tensor) -> bool:
    blocks = torch.split(head.hidden_ND[counted_N], POSITIONS)
    return any(_bad(project(x_ND, head.weight_VD, head.bias_V, head.head)) for x_ND in blocks)


def _bad(x: Tensor) -> bool:
    return not bool(x.isfinite().all())


def first(flags: Sequence[float]) -> str | None:
    """Return the first part with a fault in words, as "layer 3"; None without one. `flags` are those of `faults`."""
    place = next((n for n, flag in enumerate(flags) if flag), None)
    if place is None:
        return None
    return "the embedding" if place == 0 else "the head" if place == len(flags) - 1 else f"layer {place - 1}"


def complaint(called: str, dtype: str, where: str) -> str:
    """Return a one-line error message for a model, `called`, whose logits are not finite from `where` on.

    Only a dtype narrower than float32 gets the advice to use float32, the widest `--precision`.
    """
    way_out = "--precision float32 may help" if WIDER.get(dtype) == "float32" else "use another model"
    return (
        f"the logits of {called} are not finite in {dtype}, from {where} on; "
        f"{way_out} (kept check names weights that are not finite)"
    )
