"""Radians per position of each rotating pair. Dynamic scaling has none without a length; LongRoPE has two lists."""

from __future__ import annotations

import math

from kept.ir.spec import Dynamic, Linear, Llama3, LongRope, Proportional, Rope, Yarn

Frequencies = tuple[float, ...]


def frequencies(rope: Rope, head_dim: int, *, long: bool = False) -> Frequencies:
    """Return the frequency of each pair of dimensions; those of LongRoPE beyond its original length if `long`.

    Raises ValueError for dynamic scaling, whose frequencies depend on the length.
    """
    match rope.scaling:
        case None:
            return plain(rope.theta, rope.dims)
        case Linear(factor):
            return tuple(one / factor for one in plain(rope.theta, rope.dims))
        case Proportional(factor):
            turning = plain(rope.theta, head_dim)[: rope.dims // 2]
            return (*(one / factor for one in turning), *[0.0] * ((head_dim - rope.dims) // 2))
        case Llama3():
            return _llama3(plain(rope.theta, rope.dims), rope.scaling)
        case Yarn():
            return _yarn(rope, rope.scaling)
        case LongRope(short, far):
            divisors = far if long else short
            return tuple(one / by for one, by in zip(plain(rope.theta, rope.dims), divisors, strict=True))
        case Dynamic():
            raise ValueError("frequencies of dynamic scaling depend on the length")


def plain(theta: float, dims: int) -> Frequencies:
    """Return theta^(-2 i / dims) for each pair i."""
    return tuple(theta ** -(i / dims) for i in range(0, dims, 2))


def _llama3(unscaled: Frequencies, scaling: Llama3) -> Frequencies:
    span = scaling.high_freq_factor - scaling.low_freq_factor
    original = scaling.original_max_position_embeddings / (2 * math.pi)
    kept = (min(1.0, max(0.0, (original * one - scaling.low_freq_factor) / span)) for one in unscaled)
    return tuple(one * (keep + (1 - keep) / scaling.factor) for one, keep in zip(unscaled, kept, strict=True))


def _yarn(rope: Rope, scaling: Yarn) -> Frequencies:
    def pair_that_turns(times: float) -> float:
        ratio = scaling.original_max_position_embeddings / (times * 2 * math.pi)
        return rope.dims * math.log(ratio) / (2 * math.log(rope.theta))

    low, high = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dims - 1)
    span = high - low or 0.001
    interpolated = (min(1.0, max(0.0, (i - low) / span)) for i in range(rope.dims // 2))
    unscaled = plain(rope.theta, rope.dims)
    return tuple(one * (part / scaling.factor + 1 - part) for one, part in zip(unscaled, interpolated, strict=True))
