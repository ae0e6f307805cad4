"""Rows of tensors taken apart, joined and compared."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kept.ir.tensors.computed import AssembledTensor, DerivedTensor
from kept.ir.tensors.dtypes import DTYPE_BYTES, working_precision
from kept.ir.tensors.stored import Stored

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

    from kept.ir.tensors.dtypes import Precision
    from kept.ir.tensors.lazy import Lazy, Reader


@dataclass(frozen=True)
class RowSlice(DerivedTensor):
    """A contiguous range of another tensor's rows, from row `first` on."""

    first: int

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """The source's rows, moved by where the run begins."""
        return self.source.rows(self.first + start, self.first + stop, precision)

    def reader(self, precision: Precision) -> Reader:
        """The source's, moved."""
        read = self.source.reader(precision)
        return lambda start, stop: read(self.first + start, self.first + stop)


@dataclass(frozen=True)
class Concat(AssembledTensor):
    """Runs of rows of other tensors, one after another."""

    @property
    def by_rows(self) -> bool:
        """Whether all parts can be computed a block of rows at a time."""
        return all(part.by_rows for part in self.parts)

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """The rows of the parts that lie between."""
        import torch  # noqa: PLC0415 - planning needs no torch

        return torch.cat([part.rows(a, b, precision) for part, a, b in self.overlaps(start, stop)])

    def reader(self, precision: Precision) -> Reader:
        """The rows of the parts; the reader of the last part touched is kept, for the values that it holds."""
        import torch  # noqa: PLC0415 - planning needs no torch

        last: tuple[Lazy, Reader] | None = None

        def read(part: Lazy, start: int, stop: int) -> torch.Tensor:
            nonlocal last
            found = last  # another thread may change it
            if found is None or found[0] is not part:
                last = found = part, part.reader(precision)
            return found[1](start, stop)

        return lambda start, stop: torch.cat([read(part, a, b) for part, a, b in self.overlaps(start, stop)])

    def overlaps(self, start: int, stop: int) -> Iterator[tuple[Lazy, int, int]]:
        """The parts that rows start to stop touch, and which rows of each."""
        begin = 0
        for part in self.parts:
            end = begin + part.shape[0]
            if start < end and begin < stop:
                yield part, max(start, begin) - begin, min(stop, end) - begin
            begin = end


def join(parts: Sequence[Lazy]) -> Lazy:
    """The parts one after another; stored neighbours become one, so that what was taken apart is itself again."""
    out: list[Lazy] = []
    for part in parts:
        last = out[-1] if out else None
        if isinstance(last, Stored) and isinstance(part, Stored) and _follows(last, part):
            out[-1] = replace(last, shape=(last.shape[0] + part.shape[0], *last.shape[1:]))
        else:
            out.append(part)
    if len(out) == 1:
        return out[0]
    return Concat((sum(part.shape[0] for part in out), *out[0].shape[1:]), out[0].dtype, tuple(out))


def _follows(last: Stored, part: Stored) -> bool:
    same = (last.file, last.dtype, last.shape[1:]) == (part.file, part.dtype, part.shape[1:])
    return same and last.offset + last.nbytes == part.offset


def take_rows(tensor: Lazy, start: int, stop: int) -> Lazy:
    """Rows start to stop; of stored bytes still stored bytes."""
    if (start, stop) == (0, tensor.shape[0]):
        return tensor
    shape = (stop - start, *tensor.shape[1:])
    if isinstance(tensor, Stored):
        row = math.prod(tensor.shape[1:]) * DTYPE_BYTES[tensor.dtype]
        return replace(tensor, shape=shape, offset=tensor.offset + start * row)
    if isinstance(tensor, Concat):
        return join([take_rows(part, a, b) for part, a, b in tensor.overlaps(start, stop)])
    return RowSlice(shape, tensor.dtype, tensor, start)


def equal(one: Lazy, other: Lazy) -> bool:
    """Return whether two tensors have the same dtype, shape and values. Stops reading at the first difference."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if isinstance(one, Stored) and isinstance(other, Stored):
        return one.same_bytes(other)
    precision = working_precision(one.dtype)
    whole = (one.value(precision), other.value(precision))
    return bool((whole[0] == whole[1]).all())
