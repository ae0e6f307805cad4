"""LayerNorm and RMSNorm, with a gain, a bias and an offset to the gain as the spec says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

if TYPE_CHECKING:
    from kept.ir import spec as ir


class NormModule(nn.Module):
    """`(offset + gain) * x_hat + bias` over the last axis (arXiv 1607.06450, 1910.07467).

    Statistics are computed in float32 or wider, as in transformers. `shape` is the shape of the gain: (size,), or
    (heads, size) for a gain of each head. The last axis is normalised.
    """

    def __init__(self, spec: ir.Norm, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.spec = spec
        self.gain = nn.Parameter(torch.ones(shape)) if spec.gain else None
        self.bias = nn.Parameter(torch.zeros(shape)) if spec.bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (..., size); returns the same shape."""
        x_hat = normalise(x, self.spec)
        if self.gain is not None:
            x_hat = x_hat * (self.gain + self.spec.offset if self.spec.offset else self.gain)
        return x_hat if self.bias is None else x_hat + self.bias


def normalise(x: Tensor, spec: ir.Norm) -> Tensor:
    """Return `x_hat` of (..., size), before gain and bias, in the dtype of x."""
    if spec.kind == "none":
        return x
    wide = x if x.dtype == torch.float64 else x.float()
    size = (x.shape[-1],)
    if spec.kind == "layer":
        return F.layer_norm(wide, size, eps=spec.eps).to(x.dtype)
    return F.rms_norm(wide, size, eps=spec.eps).to(x.dtype)
