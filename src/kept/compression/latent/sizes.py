"""The cached numbers of a truncated layer, from what was asked for. Needs no torch: a plan states them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.errors import InputError
from kept.passes.latent_norm import constant_coordinates

if TYPE_CHECKING:
    from kept.compression.latent.settings import TruncationSettings
    from kept.ir.spec import Attention

ROTARY_PART = 1 / 4
"""Default share of the rotary key in the cache. First-order costs do not choose it well: they underrate small keys."""

LEAST_ROTARY = 5 / 8
"""Smallest width of the rotary key by default, as a part of the rotated elements of a head."""


@dataclass(frozen=True)
class CacheSize:
    """Elements that a layer caches for each token: two for each rotary slot, and a latent with its constants."""

    slots: int
    rank: int

    @property
    def total(self) -> int:
        """Cached numbers, those included that are constant."""
        return 2 * self.slots + with_constants(self.rank)


def with_constants(rank: int) -> int:
    """Return the size of a latent of a rank with its constant coordinates."""
    return rank + len(constant_coordinates(rank))


def largest_rank(numbers: int) -> int:
    """Return the largest rank whose latent has at most this many numbers; 0 if there is none."""
    return next((rank for rank in range(numbers, 0, -1) if with_constants(rank) <= numbers), 0)


def planned_size(one: Attention, settings: TruncationSettings) -> CacheSize:
    """Return the size of every layer, or the mean size if ranks differ.

    Raises InputError for a share or sizes outside what is possible.
    """
    if settings.sizes is not None:
        return _given(one, settings.sizes)
    whole = 2 * one.kv_size
    numbers = int(whole * (1 if settings.share is None else settings.share) + 1e-9)
    least = CacheSize(1, 1).total
    if numbers < least:
        share = -(-1000 * least // whole) / 10
        raise InputError(f"kv: {settings.share:.2%} is below what is possible; ask for {share:g}% or more")
    slots = min(_slots(one, numbers, settings), one.kv_heads * rotated_pairs(one))
    rank = min(largest_rank(numbers - 2 * slots), latent_limit(one))
    return CacheSize(slots, rank)


def latent_limit(one: Attention) -> int:
    """Return the largest useful rank: the keys and values of all heads."""
    return 2 * one.kv_size


def _slots(one: Attention, numbers: int, settings: TruncationSettings) -> int:
    """Return the number of rotary slots by default: what is left must hold a latent."""
    pairs = rotated_pairs(one)
    wanted = max(round(ROTARY_PART * numbers / 2), round(LEAST_ROTARY * pairs))
    if settings.method == "transmla":
        wanted = pairs
    if settings.method == "paper":
        wanted = -(-pairs // 2)
    most = (numbers - with_constants(1)) // 2
    return max(1, min(wanted, most, max(1, numbers // 4)))


def _given(one: Attention, sizes: tuple[int, int]) -> CacheSize:
    rotary, rank = sizes
    if not 2 <= rotary <= 2 * one.kv_heads * rotated_pairs(one) or rotary % 2:
        most = 2 * one.kv_heads * rotated_pairs(one)
        raise InputError(f"kv_ranks: the rotary key is {rotary}; ask for an even number from 2 to {most}")
    if not 1 <= rank <= latent_limit(one):
        raise InputError(f"kv_ranks: the latent is {rank}; ask for 1 to {latent_limit(one)}")
    return CacheSize(rotary // 2, rank)


def rotated_pairs(one: Attention) -> int:
    """Return the rotated pairs of a head."""
    assert one.rope is not None
    return one.rope.dims // 2
