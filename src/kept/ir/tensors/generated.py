"""Tensors without a source: one number everywhere, a formula of the position, values in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.ir.tensors.lazy import Lazy

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from kept.ir.tensors.dtypes import Precision


@dataclass(frozen=True)
class Full(Lazy):
    """One number everywhere."""

    fill: float

    @property
    def by_rows(self) -> bool:
        """Every row is the same."""
        return True

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Rows of the constant."""
        import torch  # noqa: PLC0415 - planning needs no torch

        return torch.full((stop - start, *self.shape[1:]), self.fill, dtype=getattr(torch, precision))


@dataclass(frozen=True)
class Formula(Lazy):
    """Rows that depend on nothing but their place: `op(start, stop, dtype)`."""

    op: Callable[[int, int, torch.dtype], torch.Tensor]

    @property
    def by_rows(self) -> bool:
        """Rows are independent."""
        return True

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Rows start to stop of the formula."""
        import torch  # noqa: PLC0415 - planning needs no torch

        return self.op(start, stop, getattr(torch, precision))


@dataclass(frozen=True)
class OneHot(Lazy):
    """Rows with a single 1: `columns` has its place in each row, None for a row of zeros."""

    columns: tuple[int | None, ...]

    @property
    def by_rows(self) -> bool:
        """Rows are independent."""
        return True

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Rows start to stop."""
        import torch  # noqa: PLC0415 - planning needs no torch

        out = torch.zeros((stop - start, *self.shape[1:]), dtype=getattr(torch, precision))
        for row, column in enumerate(self.columns[start:stop]):
            if column is not None:
                out[row, column] = 1.0
        return out


@dataclass(frozen=True)
class InMemory(Lazy):
    """Values that a pass was handed (calibration results), kept in memory."""

    values: torch.Tensor

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Rows of the given values: a copy, so that a model that is trained does not change them."""
        import torch  # noqa: PLC0415 - planning needs no torch

        return self.values[start:stop].to(getattr(torch, precision), copy=True)


def zeros(shape: tuple[int, ...], dtype: str) -> Lazy:
    """A tensor of zeros."""
    return Full(shape, dtype, 0.0)
