"""Rotary positions (arXiv 2104.09864) with every scaling rule, computed in float64 and rounded once.

Shapes: B batch, T tokens, H heads, E head size, R rotated dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kept.ir import spec as ir
from kept.ir.frequencies import frequencies


def cos_sin(rope: ir.Rope, head_dim: int, positions_BT: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of every angle, each (B, 1, T, R / 2), without waiting for the device."""
    frequencies, temperature = inverse_frequencies(rope, head_dim, positions_BT.max() + 1)
    angles = positions_BT[:, None, :, None].double() * frequencies.to(positions_BT.device)
    return (angles.cos() * temperature).to(dtype), (angles.sin() * temperature).to(dtype)


def rotate(x_BHTE: Tensor, cos: Tensor, sin: Tensor, *, interleaved: bool) -> Tensor:
    """Rotate the first R dimensions of each head and keep the rest; `cos` and `sin` are (B, 1, T, R / 2)."""
    half = cos.shape[-1]
    turned, rest = x_BHTE[..., : 2 * half], x_BHTE[..., 2 * half :]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    else:
        a, b = turned[..., :half], turned[..., half:]
        turned = torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)
    return torch.cat((turned, rest), dim=-1) if rest.shape[-1] else turned


def inverse_frequencies(rope: ir.Rope, head_dim: int, length: int | Tensor) -> tuple[Tensor, float]:
    """Return radians per position of each pair (R / 2,) in float64, and the factor on cos and sin.

    `length` is the number of positions in use. Only dynamic scaling and LongRoPE depend on it; their frequencies are
    then on its device.
    """
    match rope.scaling:
        case ir.Dynamic(factor, original):
            reached = torch.as_tensor(length, dtype=torch.float64).clamp(min=original)
            grown = (factor * reached / original) - (factor - 1)
            return _plain(rope.theta * grown ** (rope.dims / (rope.dims - 2)), rope.dims), 1.0
        case ir.LongRope(original_max_position_embeddings=original):
            reached = torch.as_tensor(length)
            short, long = (
                torch.tensor(frequencies(rope, head_dim, long=far), dtype=torch.float64, device=reached.device)
                for far in (False, True)
            )
            return torch.where(reached > original, long, short), rope.scaling.temperature
        case scaling:
            temperature = scaling.temperature if isinstance(scaling, ir.Yarn) else 1.0
            return torch.tensor(frequencies(rope, head_dim), dtype=torch.float64), temperature


def _plain(theta: Tensor, dims: int) -> Tensor:
    return theta ** -(torch.arange(0, dims, 2, dtype=torch.float64, device=theta.device) / dims)
