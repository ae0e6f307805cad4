"""Pack codes into 32-bit words as GPTQ and AWQ checkpoints do, one field at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The output that each field of an AWQ word holds, from the lowest bits."""


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack the last axis: field i begins at bit i * bits of its row, and may continue in the next word."""
    rows = []
    for row in codes.tolist():
        whole = sum(code << (place * bits) for place, code in enumerate(row))
        count = -(-len(row) * bits // 32)
        rows.append([whole >> (32 * word) & 0xFFFFFFFF for word in range(count)])
    return torch.tensor(rows, dtype=torch.int64).to(torch.int32)


def awq_order(codes: Tensor) -> Tensor:
    """Reorder the last axis as AWQ packs it."""
    return codes.unflatten(-1, (-1, 8))[..., AWQ_ORDER].flatten(-2)


def grouped(weight: Tensor, bits: int, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return codes (in, out), zero points (groups, out) and float16 scales (groups, out) of a weight (out, in)."""
    count, largest = int(group.max()) + 1, 2**bits - 1
    parts = [weight[:, group == one] for one in range(count)]
    low = torch.stack([part.amin(1).clamp(max=0) for part in parts])
    high = torch.stack([part.amax(1).clamp(min=0) for part in parts])
    scale = ((high - low) / largest).half().clamp(min=1e-4)
    zero = (-low / scale.float()).round().clamp(0, largest).int()
    codes = (weight.T / scale.float()[group] + zero[group]).round().clamp(0, largest).int()
    return codes, zero, scale
