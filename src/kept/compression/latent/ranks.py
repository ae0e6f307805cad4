"""How many rotary components, and what rank each layer gets, under one budget of cached numbers for each token.

Every number is given where it saves most: costs are errors of a layer's output relative to the output's mean square.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kept.compression.latent.sizes import CacheSize, with_constants

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

LEAST_RANK = 4
"""Smallest rank of a layer."""


def chosen_slots(cost_FC: Tensor, slots: int) -> tuple[int, ...]:
    """Return for each frequency how many of its components are among the `slots` most costly ones to drop."""
    order = cost_FC.flatten().argsort(descending=True, stable=True)[:slots]
    counts = torch.bincount(order // cost_FC.shape[1], minlength=cost_FC.shape[0])
    return tuple(counts.tolist())


def leading(cost_N: Tensor, energy: float) -> int:
    """Return how many of the largest costs have at least this part of their sum; at least 1."""
    kept = cost_N.flatten().sort(descending=True).values.cumsum(0)
    return int((kept < energy * kept[-1]).sum()) + 1 if float(kept[-1]) > 0 else 1


def uniform_rank(costs: Sequence[Tensor], energy: float) -> int:
    """Return the rank of all layers that keeps a part of the energy of all layers together."""
    size = max(map(len, costs))
    padded = [torch.nn.functional.pad(cost, (0, size - len(cost))) for cost in costs]
    return leading(torch.stack(padded).sum(0), energy)


def ranks_by_layer(costs: Sequence[Tensor], numbers: int) -> tuple[int, ...]:
    """Return a rank for each layer so that all latents together have at most `numbers` numbers.

    Components are taken in the order of what they save. Their costs fall within a layer, so each layer gets its
    leading ones.
    """
    least = [min(LEAST_RANK, len(cost), max(1, numbers // len(costs) - 4)) for cost in costs]
    rest = torch.cat([cost[few:] for cost, few in zip(costs, least, strict=True)])
    layers = [torch.full((len(cost) - few,), at) for at, (cost, few) in enumerate(zip(costs, least, strict=True))]
    order = torch.cat(layers)[rest.argsort(descending=True, stable=True)]

    def taken(count: int) -> list[int]:
        more = torch.bincount(order[:count], minlength=len(costs)).tolist()
        return [few + some for few, some in zip(least, more, strict=True)]

    low, high = 0, min(len(order), max(0, numbers - sum(least)))
    while low < high:
        middle = (low + high + 1) // 2
        fits = sum(map(with_constants, taken(middle))) <= numbers
        low, high = (middle, high) if fits else (low, middle - 1)
    return tuple(taken(low))


def energy_slots(cost_FC: Tensor, energy: float) -> int:
    """Return how many rotary slots keep a part of the energy of all components."""
    return leading(cost_FC, energy)


def cache_total(slots: int, ranks: Sequence[int]) -> int:
    """Return the cached numbers of all layers for each token."""
    return sum(CacheSize(slots, rank).total for rank in ranks)
