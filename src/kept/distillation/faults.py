"""Which model puts out what is not finite, and from which layer on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kept.ir.tensors import WIDER
from kept.nn.model import project

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from kept.distillation.heads import HeadInput
    from kept.distillation.packing import Batch
    from kept.distillation.parallel import Trunk

POSITIONS = 512
"""Positions whose logits are held at a time."""


@torch.no_grad()
def faults(trunk: Trunk, batch: Batch) -> list[bool]:
    """Whether anything is not finite in what the model's parts put out: the embedding, each layer, and the head."""
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
    """The first part with a fault, in words."""
    place = next((n for n, flag in enumerate(flags) if flag), None)
    if place is None:
        return None
    return "the embedding" if place == 0 else "the head" if place == len(flags) - 1 else f"layer {place - 1}"


def complaint(called: str, dtype: str, where: str) -> str:
    """One line about a model whose logits are not finite. The precision of the arithmetic is float32 at most."""
    way_out = "--precision float32 may help" if WIDER.get(dtype) == "float32" else "name another"
    return (
        f"the logits of {called} are not finite in {dtype}, from {where} on; "
        f"{way_out} (kept check names weights that are not finite)"
    )
