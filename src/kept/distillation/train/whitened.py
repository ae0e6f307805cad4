"""A matrix trained in whitened coordinates of its input: W + diag(s) D L^-1, where D begins at 0.

L is the Cholesky factor of the second moment of the matrix's input, so that L^-1 x has uncorrelated elements of the
same size, and s has the root mean squares of the rows of W L: a learning rate of 1e-3 changes a row by a thousandth of
itself in a step. One rate then fits all matrices, whose inputs and rows differ in scale by orders of magnitude.
Shapes: O outputs, I inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from typing import Self

RIDGE = 1e-2
"""Fraction of the mean diagonal of a second moment that is added to its diagonal."""

SMALLEST_ROW = 0.1
"""Least scale of a row, relative to the mean: a row of zeros can be trained too."""


def cholesky_factor(moment_II: Tensor) -> Tensor:
    """Return L with L L' = moment + ridge, in float64. The factor of an input that is always 0 is the identity."""
    moment_II = moment_II.double()
    diagonal = moment_II.diagonal().mean()
    eye_II = torch.eye(len(moment_II), dtype=torch.float64, device=moment_II.device)
    factor_II: Tensor = torch.linalg.cholesky(moment_II + RIDGE * diagonal * eye_II) if diagonal > 0 else eye_II
    return factor_II


def inverse(factor_II: Tensor) -> Tensor:
    """Return L^-1."""
    eye_II = torch.eye(len(factor_II), dtype=factor_II.dtype, device=factor_II.device)
    found_II: Tensor = torch.linalg.solve_triangular(factor_II, eye_II, upper=False)
    return found_II


class Whitened(nn.Module):
    """Parametrisation of a frozen matrix with a trainable update in whitened coordinates.

    `inverse_II` is L^-1; None for an input whose moment is unknown, which stands for the identity.
    """

    inverse_II: Tensor | None
    scale_O1: Tensor

    def __init__(self, inverse_II: Tensor | None, scale_O1: Tensor, inputs: int) -> None:
        super().__init__()
        self.register_buffer("inverse_II", inverse_II, persistent=False)
        self.register_buffer("scale_O1", scale_O1, persistent=False)
        self.update_OI = nn.Parameter(scale_O1.new_zeros(len(scale_O1), inputs))

    @classmethod
    def of(cls, weight_OI: Tensor, factor_II: Tensor | None, inverse_II: Tensor | None) -> Self:
        """Return the parametrisation of a weight, given L and L^-1 of its input. Matrices may share an inverse."""
        wide_OI = weight_OI.detach().double()
        white_OI = wide_OI if factor_II is None else wide_OI @ factor_II
        size_O1 = white_OI.square().mean(dim=1, keepdim=True).sqrt()
        mean = size_O1.mean()
        scale_O1 = size_O1.clamp(min=float(SMALLEST_ROW * mean)) if mean > 0 else torch.ones_like(size_O1)
        return cls(inverse_II, scale_O1.to(weight_OI.dtype), weight_OI.shape[1])

    def forward(self, weight_OI: Tensor) -> Tensor:
        """Return the matrix with its update."""
        return self.merged(weight_OI, self.update_OI)

    def merged(self, weight_OI: Tensor, update_OI: Tensor) -> Tensor:
        """Return the matrix with a given update."""
        with torch.autocast(weight_OI.device.type, enabled=False):
            plain_OI = update_OI if self.inverse_II is None else update_OI @ self.inverse_II
            return torch.addcmul(weight_OI, self.scale_O1, plain_OI)

    @torch.no_grad()
    def move(self, change_OI: Tensor, factor_II: Tensor | None) -> None:
        """Change the update so that the matrix changes by `change_OI`, given L."""
        whitened_OI = change_OI if factor_II is None else change_OI @ factor_II.to(change_OI.dtype)
        self.update_OI.add_((whitened_OI / self.scale_O1).to(self.update_OI.dtype))
