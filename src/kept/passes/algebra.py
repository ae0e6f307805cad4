"""The tensor operations that passes are composed of. Each is a pure function, evaluated when bytes are requested.

Sums over blocks of rows are computed in float64 and rounded once, so that the result does not depend on the sizes of
blocks and the number of threads: the order of the terms changes less than the rounding does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from kept.ir.tensors import Computed, Lazy

if TYPE_CHECKING:
    import torch

    from kept.ir.tensors import Precision


@dataclass(frozen=True)
class Mean(Lazy):
    """The mean over the first axis of `source`, which stays with size 1. Reads a block of rows at a time."""

    source: Lazy

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """The one row."""
        import torch  # noqa: PLC0415 - planning needs no torch

        total = torch.zeros(self.shape, dtype=torch.float64)
        for block in self.source.blocks(precision):
            total += block.sum(0, keepdim=True, dtype=torch.float64)
        return (total / self.source.shape[0]).to(getattr(torch, precision))[start:stop]


def centred(tensor: Lazy, axis: int) -> Lazy:
    """The tensor less its mean along an axis."""
    if axis == 0:
        mean = Mean((1, *tensor.shape[1:]), tensor.dtype, tensor)
        return Computed(tensor.shape, tensor.dtype, _less, (tensor,), (mean,), local=True)
    return Computed(tensor.shape, tensor.dtype, partial(_centre, axis=axis), (tensor,), local=True)


def times_vector(matrix: Lazy, vector: Lazy, plus: Lazy | None) -> Lazy:
    """`matrix @ vector (+ plus)`, a bias."""
    sliced = (matrix,) if plus is None else (matrix, plus)
    return Computed(
        matrix.shape[:1], matrix.dtype, _affine if plus is not None else _product, sliced, (vector,), local=True
    )


def permuted_rows(tensor: Lazy, order: tuple[int, ...]) -> Lazy:
    """Rows in another order, or repeated; `order[i]` is the old place of new row i."""
    return Computed((len(order), *tensor.shape[1:]), tensor.dtype, partial(_take, order=order), (tensor,))


def scaled(tensor: Lazy, factor: float, rows: int | None = None) -> Lazy:
    """The tensor times a factor, or only its first `rows`."""
    op = partial(_scale, factor=factor) if rows is None else partial(_scale_first, factor=factor, rows=rows)
    return Computed(tensor.shape, tensor.dtype, op, (tensor,), local=rows is None)


def scaled_rows(tensor: Lazy, factors: tuple[float, ...]) -> Lazy:
    """Each row times its own factor."""
    return Computed(tensor.shape, tensor.dtype, partial(_scale_rows, factors=factors), (tensor,))


def scaled_gain(gain: Lazy, factor: float, offset: float, *, plain: bool = False) -> Lazy:
    """`factor (offset + gain)`, stored less the offset unless it becomes `plain`."""
    return Computed(gain.shape, gain.dtype, partial(_gain, factor=factor, offset=offset, plain=plain), (gain,))


def unit_rows(matrix: Lazy) -> Lazy:
    """Each row divided by its length."""
    return Computed(matrix.shape, matrix.dtype, _unit_rows, (matrix,), local=True)


def permuted_columns(tensor: Lazy, order: tuple[int, ...]) -> Lazy:
    """Columns in another order."""
    return Computed(tensor.shape, tensor.dtype, partial(_take_columns, order=order), (tensor,), local=True)


def _centre(tensor: torch.Tensor, axis: int) -> torch.Tensor:
    return tensor - tensor.double().mean(dim=axis, keepdim=True).to(tensor.dtype)


def _less(tensor: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    return tensor - mean


def _product(matrix: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return (matrix.double() @ vector.double()).to(matrix.dtype)


def _affine(matrix: torch.Tensor, plus: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return (plus.double() + matrix.double() @ vector.double()).to(matrix.dtype)


def _take(tensor: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    return tensor[list(order)]


def _take_columns(tensor: torch.Tensor, order: tuple[int, ...]) -> torch.Tensor:
    return tensor[:, list(order)]


def _scale(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    return tensor * factor


def _scale_first(tensor: torch.Tensor, factor: float, rows: int) -> torch.Tensor:
    out = tensor.clone()
    out[:rows] *= factor
    return out


def _scale_rows(tensor: torch.Tensor, factors: tuple[float, ...]) -> torch.Tensor:
    return tensor * tensor.new_tensor(factors).view(-1, *[1] * (tensor.dim() - 1))


def _gain(gain: torch.Tensor, factor: float, offset: float, *, plain: bool) -> torch.Tensor:
    return factor * (offset + gain) - (0.0 if plain else offset)


def _unit_rows(matrix: torch.Tensor) -> torch.Tensor:
    lengths: torch.Tensor = matrix.norm(dim=-1, keepdim=True)
    return matrix / lengths.clamp_min(1e-12)
