"""Locate NaN or Inf in a model's activations: the first part whose output is not finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kept.ir.tensors import WIDER
from kept.nn.decoder import project

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from kept.distillation.data.packing import Batch
    from kept.distillation.loss.output_head import HeadInput
    from kept.distillation.train.backbone import Backbone

POSITIONS = 512
"""Number of positions whose logits are held in memory at once."""


@torch.no_grad()
def nonfinite_parts(backbone: Backbone, batch: Batch) -> list[bool]:
    """Return for the embedding, each layer and the head whether its output on a batch has NaN or Inf.

    Only positions that count for the loss are checked.
    """
    counted_N = batch.mask_BT.flatten() != 0
    output = backbone.output(batch, keep_hidden=True)
    layers = [_has_nonfinite(x_BTD.flatten(0, 1)[counted_N]) for x_BTD in output.hidden_states]
    return [*layers, _has_nonfinite_logits(output.head, counted_N)]


def _has_nonfinite_logits(head: HeadInput, counted_N: Tensor) -> bool:
    blocks = torch.split(head.hidden_ND[counted_N], POSITIONS)
    return any(_has_nonfinite(project(x_ND, head.weight_VD, head.bias_V, head.head)) for x_ND in blocks)


def _has_nonfinite(x: Tensor) -> bool:
    return not bool(x.isfinite().all())


def first_fault(flags: Sequence[float]) -> str | None:
    """Return the first part that is not finite, as "layer 3", or None. `flags` are those of `nonfinite_parts`."""
    place = next((n for n, flag in enumerate(flags) if flag), None)
    if place is None:
        return None
    return "the embedding" if place == 0 else "the head" if place == len(flags) - 1 else f"layer {place - 1}"


def nonfinite_message(model: str, dtype: str, place: str) -> str:
    """Return a one-line error message for a model whose logits are not finite from `place` on.

    Only a dtype narrower than float32 gets the advice to use float32, the widest `--dtype`.
    """
    way_out = "--dtype float32 may help" if WIDER.get(dtype) == "float32" else "use another model"
    return (
        f"the logits of {model} are not finite in {dtype}, from {place} on; "
        f"{way_out} (kept check names weights that are not finite)"
    )
