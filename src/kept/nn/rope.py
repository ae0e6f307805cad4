"""Rotary positions (arXiv 2104.09864) with every scaling rule, computed in float64 and rounded once.

Shapes: B batch, T tokens, H heads, E head size, R rotated dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kept.ir import spec as ir


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


def inverse_frequencies(  # noqa: PLR0911 - one for each kind
    rope: ir.Rope, head_dim: int, length: int | Tensor
) -> tuple[Tensor, float]:
    """Return radians per position of each pair (R / 2,) in float64, and the factor on cos and sin.

    `length` is the number of positions in use. Only dynamic scaling and LongRoPE depend on it; their frequencies are
    then on its device.
    """
    match rope.scaling:
        case None:
            return _plain(rope.theta, rope.dims), 1.0
        case ir.Linear(factor):
            return _plain(rope.theta, rope.dims) / factor, 1.0
        case ir.Dynamic(factor, original):
            reached = torch.as_tensor(length, dtype=torch.float64).clamp(min=original)
            grown = (factor * reached / original) - (factor - 1)
            return _plain(rope.theta * grown ** (rope.dims / (rope.dims - 2)), rope.dims), 1.0
        case ir.Proportional(factor):
            still = torch.zeros((head_dim - rope.dims) // 2, dtype=torch.float64)
            return torch.cat((_plain(rope.theta, head_dim)[: rope.dims // 2], still)) / factor, 1.0
        case ir.Llama3():
            return _llama3(_plain(rope.theta, rope.dims), rope.scaling), 1.0
        case ir.Yarn():
            return _yarn(rope, rope.scaling)
        case ir.LongRope():
            return _longrope(rope, rope.scaling, length)


def _plain(theta: float | Tensor, dims: int) -> Tensor:
    base = torch.as_tensor(theta, dtype=torch.float64)
    return base ** -(torch.arange(0, dims, 2, dtype=torch.float64, device=base.device) / dims)


def _llama3(plain: Tensor, scaling: ir.Llama3) -> Tensor:
    turns = scaling.original_max_position_embeddings * plain / (2 * math.pi)
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = ramp.clamp(0, 1)
    return plain * (keep + (1 - keep) / scaling.factor)


def _yarn(rope: ir.Rope, scaling: ir.Yarn) -> tuple[Tensor, float]:
    def pair_that_turns(times: float) -> float:
        ratio = scaling.original_max_position_embeddings / (times * 2 * math.pi)
        return rope.dims * math.log(ratio) / (2 * math.log(rope.theta))

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dims - 1)
    span = high - low or 0.001
    interpolate = ((torch.arange(rope.dims // 2, dtype=torch.float64) - low) / span).clamp(0, 1)
    plain = _plain(rope.theta, rope.dims)
    return plain * (interpolate / scaling.factor + 1 - interpolate), scaling.temperature


def _longrope(rope: ir.Rope, scaling: ir.LongRope, length: int | Tensor) -> tuple[Tensor, float]:
    reached = torch.as_tensor(length)
    factors = (scaling.short_factor, scaling.long_factor)
    short, long = (torch.tensor(factor, dtype=torch.float64, device=reached.device) for factor in factors)
    divisors = torch.where(reached > scaling.original_max_position_embeddings, long, short)
    return _plain(rope.theta, rope.dims).to(divisors.device) / divisors, scaling.temperature
