"""Refit of the values and the output projection of a truncated layer on calibration activations, in closed form.

The truncated attention mixes latents. Their map to the output is fitted to the teacher's output by least squares with
a ridge towards the map that the truncation gave, and is then written as values of the source's head size and an output
projection.

Shapes: as in `factors`; P tokens, Z = H R elements of all mixed latents, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from kept.compression.latent.low_rank import roots

if TYPE_CHECKING:
    from torch import Tensor

    from kept.compression.latent.factors import LatentFactors
    from kept.compression.latent.heads import AttentionHeads

RIDGE = 0.01
"""Weight of the ridge, relative to the mean square of the mixed latents."""


@dataclass
class Refit:
    """Sums over calibration tokens of one layer, and the fitted factors."""

    heads: AttentionHeads
    factors: LatentFactors
    every: int = 2
    mixed_ZZ: Tensor = field(init=False)
    error_ZD: Tensor = field(init=False)
    error: float = field(init=False, default=0.0)
    wanted: float = field(init=False, default=0.0)
    tokens: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Begin with empty sums."""
        size = len(self.heads.o_HDE) * self.factors.rank
        self.mixed_ZZ = torch.zeros(size, size, dtype=torch.float64)
        self.error_ZD = torch.zeros(size, self.heads.o_HDE.shape[1], dtype=torch.float64)

    @torch.inference_mode()
    def add(self, x_BTD: Tensor, wanted_BTD: Tensor) -> None:
        """Add inputs of the layer and the teacher's outputs, without the bias of the output projection."""
        at = slice(self.every - 1, None, self.every)
        mixed_PZ = self.factors.mixed(self.heads, x_BTD)[:, :, at].transpose(1, 2).flatten(2).flatten(0, 1)
        wanted_PD = wanted_BTD[:, at].flatten(0, 1)
        error_PD = wanted_PD - mixed_PZ @ _stacked(self.factors.output_HDR)
        self.mixed_ZZ += (mixed_PZ.T @ mixed_PZ).double()
        self.error_ZD += (mixed_PZ.T @ error_PD).double()
        self.error += float(error_PD.double().square().sum())
        self.wanted += float(wanted_PD.double().square().sum())
        self.tokens += len(wanted_PD)

    def fitted(self) -> LatentFactors:
        """Return the factors with fitted values and output projection, and the errors before and after."""
        heads, rank = self.factors.o_HDE.shape[0], self.factors.rank
        ridge = RIDGE * self.mixed_ZZ.diagonal().mean().clamp(min=torch.finfo(torch.float64).tiny)
        change_ZD = torch.linalg.solve(self.mixed_ZZ + ridge * torch.eye(len(self.mixed_ZZ)), self.error_ZD)
        whole_HDR = self.factors.output_HDR.double() + change_ZD.unflatten(0, (heads, rank)).mT
        own_HRR = self.mixed_ZZ.view(heads, rank, heads, rank).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        size = self.factors.o_HDE.shape[2]
        parts = [_split(whole, own / max(1, self.tokens), size) for whole, own in zip(whole_HDR, own_HRR, strict=True)]
        o_HDE, value_HER = (torch.stack(part) for part in zip(*parts, strict=True))
        change_ZD = _stacked(o_HDE @ value_HER) - _stacked(self.factors.output_HDR).double()
        error = self.error - 2 * float((change_ZD * self.error_ZD).sum())
        error += float((change_ZD * (self.mixed_ZZ @ change_ZD)).sum())
        wanted = max(self.wanted, torch.finfo(torch.float64).tiny)
        found = (self.error / wanted, max(error, 0.0) / wanted)
        if found[1] > found[0]:
            return replace(self.factors, errors=(found[0], found[0]))
        return replace(self.factors, o_HDE=o_HDE.float(), value_HER=value_HER.float(), errors=found)


def _stacked(output_HDR: Tensor) -> Tensor:
    """Return the maps of all heads as one, (H R, D)."""
    return output_HDR.mT.flatten(0, 1)


def _split(map_DR: Tensor, moment_RR: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the best `o (D, size) @ value (size, R)` for latents of this second moment."""
    root, inverse = roots(moment_RR)
    left, scale, right = torch.linalg.svd(map_DR @ root, full_matrices=False)
    few = min(size, len(scale))
    balance = scale[:few].sqrt()
    o, value = left[:, :few] * balance, balance[:, None] * right[:few] @ inverse
    return torch.nn.functional.pad(o, (0, size - few)), torch.nn.functional.pad(value, (0, 0, 0, size - few))
