"""The residual stream of a rewritten model as a function of the residual stream of the model before."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class StreamMap:
    """The map `x -> scale M x + constant u` on residual streams of width d, with `u = 1 / sqrt(d)` in every coordinate.

    `M = I - u u'` subtracts the mean if `centred`, else `M = I`. `scale` is above 0. These maps are closed under
    composition. `constant` None stands for a constant that is not measured yet.
    """

    centred: bool = False
    constant: float | None = 0.0
    scale: float = 1.0

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return the stream after the pass, (..., D), from the stream before it."""
        out = x - x.mean(-1, keepdim=True) if self.centred else x
        return self.scale * out + self._offset(x.shape[-1])

    def difference(self, x: torch.Tensor) -> torch.Tensor:
        """Return the difference of two streams after the pass, (..., D), from their difference before it."""
        out = x - x.mean(-1, keepdim=True) if self.centred else x
        return self.scale * out if self.scale != 1 else out

    def undone(self, x: torch.Tensor) -> torch.Tensor:
        """Return the stream before the pass, (..., D), from the stream after it. A mean that was subtracted stays 0."""
        found = x - self._offset(x.shape[-1]) if self.constant != 0 else x
        return found / self.scale if self.scale != 1 else found

    def then(self, later: StreamMap) -> StreamMap:
        """Return the map of this one followed by another."""
        scale = later.scale * self.scale
        if later.centred:  # M u = 0
            return StreamMap(centred=True, constant=later.constant, scale=scale)
        if self.constant is None or later.constant is None:
            return StreamMap(self.centred, None, scale)
        return StreamMap(self.centred, later.scale * self.constant + later.constant, scale)

    def _offset(self, width: int) -> float:
        assert self.constant is not None, "the constant is not measured"
        return self.constant / math.sqrt(width)


IDENTITY = StreamMap()
"""The map of a pass that leaves the residual stream as it is."""
