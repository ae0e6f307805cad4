"""The arithmetic of LoRA and DoRA on lazy weights, a block of rows at a time.

LoRA (arXiv 2106.09685) adds s B A. DoRA (arXiv 2402.09353) also gives each output of the sum a trained length:
m (W + s B A) / |W + s B A|.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.ir.tensors import Computed, DerivedTensor

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from kept.ir.tensors import Lazy, Precision


@dataclass(frozen=True)
class LowRank:
    """The operation W + s B A. `transposed` means that W is stored as (in, out)."""

    scale: float
    transposed: bool = False

    def __call__(self, weight: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        """Return rows of the merged weight from the same rows of `weight` (and of `up`, unless transposed)."""
        update = up @ down
        return weight + self.scale * (update.T if self.transposed else update)


@dataclass(frozen=True)
class SmallTranspose(DerivedTensor):
    """A small matrix transposed. It is held whole while its rows are read."""

    @property
    def by_rows(self) -> bool:
        """Rows are columns of a matrix in memory."""
        return True

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Return columns start to stop of the source as rows."""
        return self.reader(precision)(start, stop)

    def reader(self, precision: Precision) -> Callable[[int, int], torch.Tensor]:
        """Return a function of rows; the source is read here."""
        whole = self.source.value(precision)
        return lambda start, stop: whole[:, start:stop].T


@dataclass(frozen=True)
class ColumnNorms(DerivedTensor):
    """The Euclidean length of each column of a matrix, summed a block of rows at a time."""

    @property
    def by_rows(self) -> bool:
        """Every element needs all rows of the source."""
        return False

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Return lengths start to stop."""
        squares = sum(block.square().sum(0) for block in self.source.blocks(precision))
        assert not isinstance(squares, int)
        return squares.sqrt()[start:stop]


def transposed(matrix: Lazy) -> Lazy:
    """Return a matrix with its axes exchanged."""
    return SmallTranspose(matrix.shape[::-1], matrix.dtype, matrix)


def low_rank(weight: Lazy, up: Lazy, down: Lazy, op: LowRank) -> Lazy:
    """Return W + s B A in the dtype of W."""
    if op.transposed:
        return Computed(weight.shape, weight.dtype, op, (weight, up, down))
    return Computed(weight.shape, weight.dtype, op, (weight, up), (down,), local=True)


def with_row_lengths(weight: Lazy, magnitude: Lazy) -> Lazy:
    """Return a matrix whose rows have the given lengths: DoRA of a matrix (out, in)."""
    return Computed(weight.shape, weight.dtype, _rescaled_rows, (weight, magnitude), local=True)


def with_column_lengths(weight: Lazy, magnitude: Lazy) -> Lazy:
    """Return a matrix whose columns have the given lengths: DoRA of an embedding, or of a matrix (in, out)."""
    norms = ColumnNorms(weight.shape[1:], weight.dtype, weight)
    return Computed(weight.shape, weight.dtype, _rescaled_columns, (weight,), (magnitude, norms), local=True)


def _rescaled_rows(weight: torch.Tensor, magnitude: torch.Tensor) -> torch.Tensor:
    return (magnitude / weight.square().sum(1).sqrt()).unsqueeze(1) * weight


def _rescaled_columns(weight: torch.Tensor, magnitude: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
    return magnitude / norms * weight
