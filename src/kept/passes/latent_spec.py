"""The latent attention that has the function of an attention with rotary positions: sizes, rotation and scale."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kept.ir.frequencies import frequencies
from kept.ir.spec import Attention, LatentAttention, LongRope, Norm, Rope, Yarn
from kept.passes.latent_norm import constant_coordinates

if TYPE_CHECKING:
    from collections.abc import Sequence

ANY_LENGTH = 1 << 20
"""The length at which a LongRoPE changes from one list of divisors to the other, if both are the same."""


def latent(one: Attention, eps: float, *, query_latent: bool) -> LatentAttention:
    """Return the latent attention with the function of an attention.

    `query_latent`: queries are projected by way of a latent, which can have a bias.
    """
    sizes = head_sizes(one)
    return LatentAttention(
        heads=one.heads,
        kv_heads=one.heads,
        nope_dim=sizes.nope,
        rope_dim=sizes.rotary,
        value_dim=one.head_dim,
        kv_rank=sizes.values + len(constant_coordinates(sizes.values)),
        rope=_repeated(one),
        kv_norm=Norm("rms", eps),
        q_rank=one.query_size + len(constant_coordinates(one.query_size)) if query_latent else None,
        q_norm=Norm("rms", eps) if query_latent else None,
        q_bias=query_latent,
        kv_bias=True,
        o_bias=one.o_bias,
    )


def truncated(
    one: Attention, slots: Sequence[int], *, nope: int, rank: int, eps: float, query_latent: bool
) -> LatentAttention:
    """Return the latent attention with a rotated pair for each slot, named by its frequency's number in a head.

    `nope` elements of a query have no position. `rank` does not count the constant coordinates.
    """
    exact = latent(one, eps, query_latent=query_latent)
    rope = exact.rope
    assert rope is not None
    assert isinstance(rope.scaling, LongRope)
    lists = (rope.scaling.short_factor, rope.scaling.long_factor)
    short, long = (tuple(divisors[slot] for slot in slots) for divisors in lists)
    scaling = replace(rope.scaling, short_factor=short, long_factor=long)
    return replace(
        exact,
        nope_dim=nope,
        rope_dim=2 * len(slots),
        kv_rank=rank + len(constant_coordinates(rank)),
        rope=replace(rope, dims=2 * len(slots), scaling=scaling),
    )


@dataclass(frozen=True)
class HeadSizes:
    """Sizes: of a head's `turning` and `still` (not rotated) elements, the shared `rotary` key, the rest of a query.

    `values` counts the elements of the latent without constants: the values and unrotated keys of all heads.
    """

    turning: int
    still: int
    rotary: int
    nope: int
    values: int


def head_sizes(one: Attention) -> HeadSizes:
    """Return the sizes of the parts of a head, with zeros added to queries where that makes their factor exact."""
    assert one.rope is not None
    turning = one.rope.dims
    rotary, still = one.kv_heads * turning, one.head_dim - turning
    nope = _padding(one, rotary, max(1, still))
    return HeadSizes(turning, still, rotary, nope, one.kv_heads * (one.head_dim + still))


def _padding(one: Attention, rotary: int, least: int) -> int:
    """Return the size of the part without positions, `least` or so much more that scores keep a power of two.

    That is done if it makes queries at most twice as long.
    """
    for exponent in range(-8, 9):
        nope = round(4.0**exponent / _scale(one) ** 2) - rotary
        if least <= nope <= max(rotary, least) and query_factor(one, nope + rotary) == 2.0**exponent:
            return nope
    return least


def _scale(one: Attention) -> float:
    return one.head_dim**-0.5 if one.scale is None else one.scale


def query_factor(one: Attention, size: int) -> float:
    """Return the factor on queries of `size` elements: the classes multiply scores by size^-0.5."""
    found = math.sqrt(size * _scale(one) ** 2)
    exact = 2.0 ** round(math.log2(found))
    return exact if math.isclose(found, exact, rel_tol=1e-12) else found


def _repeated(one: Attention) -> Rope:
    """Return the rotation of the shared key: the frequencies of a head, once for each key-value head.

    Both lists of divisors are the same unless the source has two, so that the length between them has no effect.
    """
    rope = one.rope
    assert rope is not None
    short, long = (_divisors(one, rope, long=long) * one.kv_heads for long in (False, True))
    original, temperature = ANY_LENGTH, 1.0
    if isinstance(rope.scaling, LongRope):
        original, temperature = rope.scaling.original_max_position_embeddings, rope.scaling.temperature
    elif isinstance(rope.scaling, Yarn):
        temperature = rope.scaling.temperature
    scaling = LongRope(short, long, original, 1.0, temperature)
    return Rope(1.0, one.kv_heads * rope.dims, scaling=scaling)


def _divisors(one: Attention, rope: Rope, *, long: bool) -> tuple[float, ...]:
    return tuple(1 / frequency for frequency in frequencies(rope, one.head_dim, long=long)[: rope.dims // 2])
