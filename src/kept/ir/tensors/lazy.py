"""The base of lazy tensors: dtype and shape are known, values are computed on demand."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.ir.tensors.dtypes import STORED_BYTES, torch_dtype, working_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from kept.ir.tensors.dtypes import Precision

    Reader = Callable[[int, int], torch.Tensor]
    """Returns the rows from start to stop."""

BLOCK_ELEMENTS = 1 << 18
"""Elements computed at a time where rows are independent: 1 MB in float32, which a core's own cache holds."""


@dataclass(frozen=True)
class Lazy(ABC):
    """A tensor that is known by shape and dtype and computed on demand."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes when written."""
        return math.prod(self.shape) * STORED_BYTES[self.dtype]

    @property
    def by_rows(self) -> bool:
        """Whether a block of rows can be computed without the other rows."""
        return False

    @property
    def row_elements(self) -> int:
        """Elements that must be held to compute one row."""
        return max(1, math.prod(self.shape[1:]))

    @property
    def sources(self) -> tuple[Lazy, ...]:
        """The tensors that this one is computed from."""
        return ()

    @abstractmethod
    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Rows start to stop (of the first axis) in the working precision."""

    def reader(self, precision: Precision) -> Reader:
        """Return a function of rows. Values that every row needs are computed here, once."""
        return lambda start, stop: self.rows(start, stop, precision)

    def blocks(self, precision: Precision, elements: int | None = None) -> Iterator[torch.Tensor]:
        """All rows in the working precision, as many at a time as `elements` allow (None: `BLOCK_ELEMENTS`)."""
        count = self.shape[0]
        step = max(1, (elements or BLOCK_ELEMENTS) // self.row_elements) if self.by_rows else max(1, count)
        rows = self.reader(precision)
        return (rows(start, min(count, start + step)) for start in range(0, count, step))

    def value(self, precision: Precision = "float32") -> torch.Tensor:
        """The whole tensor in the working precision, made in blocks where rows are independent."""
        if not self.by_rows or self.shape[0] * self.row_elements <= BLOCK_ELEMENTS:
            return self.rows(0, self.shape[0], precision)
        import torch  # noqa: PLC0415 - planning needs no torch

        out, at = torch.empty(self.shape, dtype=getattr(torch, precision)), 0
        for block in self.blocks(precision):
            out[at : at + len(block)] = block
            at += len(block)
        return out

    def holds_only(self, number: float) -> bool:
        """Whether every element is this number. Reads no further than the first block that has another."""
        return all(bool((block == number).all()) for block in self.blocks(working_precision(self.dtype)))

    def numbers(self) -> NDArray[np.float64]:
        """The whole tensor as an array of float64: of stored vectors without torch, which takes seconds to import."""
        return self.value("float64").numpy()

    def read(self) -> torch.Tensor:
        """The whole tensor, rounded to its declared dtype."""
        return self.value(working_precision(self.dtype)).to(torch_dtype(self.dtype))
