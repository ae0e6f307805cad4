"""The best low rank of rows that are read with a metric.

For rows W, their metric M (what an error of each costs) and the second moment C of inputs, the best rank r minimises
`tr(M (W - U A) C (W - U A)')`. With `M^1/2 W C W' M^1/2 = S L S'` it is `A = L^-1/2 S' M^1/2 W` and
`U = M^-1/2 S L^1/2` of the r leading eigenvectors.
Only `W C W'` is needed; A is given by its factor on W. The latent `A x` is white.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

FLOOR = 1e-9
"""Smallest eigenvalue of a metric, as a part of the mean."""


@dataclass(frozen=True)
class RankedRows:
    """All components of N rows in falling order of cost: `up_NN[:, :r] @ down_NN[:r]` times the rows has rank r.

    cost_N is what leaving out each component adds to the error.
    """

    cost_N: Tensor
    up_NN: Tensor
    down_NN: Tensor


def low_rank(moment_NN: Tensor, metrics: list[Tensor]) -> RankedRows:
    """Return the components of rows with second moment `W C W'`; the metric is block-diagonal with these blocks."""
    root, inverse = (torch.block_diag(*parts) for parts in zip(*map(roots, metrics), strict=True))
    values, vectors = torch.linalg.eigh(root @ moment_NN @ root)
    cost, vectors = values.flip(0).clamp(min=0), vectors.flip(1)
    size = cost.clamp(min=1e-14 * float(cost[0]) + torch.finfo(torch.float64).tiny).sqrt()
    return RankedRows(cost, inverse @ (vectors * size), (vectors / size).T @ root)


def roots(metric: Tensor) -> tuple[Tensor, Tensor]:
    """Return square root and inverse square root of a symmetric matrix; its smallest eigenvalues are raised."""
    values, vectors = torch.linalg.eigh(metric)
    floor = max(FLOOR * float(values.clamp(min=0).mean()), torch.finfo(torch.float64).tiny)
    root = values.clamp(min=floor).sqrt()
    return (vectors * root) @ vectors.T, (vectors / root) @ vectors.T
