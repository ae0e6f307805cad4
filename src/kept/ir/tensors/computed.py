"""Tensors computed from others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.ir.tensors.lazy import Lazy

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from kept.ir.tensors.dtypes import Precision
    from kept.ir.tensors.lazy import Reader


@dataclass(frozen=True)
class Computed(Lazy):
    """`op(*sliced, *whole)`.

    Where `local` holds, output rows depend only on the same rows of `sliced` (and on all of `whole`), so the
    tensor can be computed and written a block of rows at a time.
    """

    op: Callable[..., torch.Tensor]
    sliced: tuple[Lazy, ...]
    whole: tuple[Lazy, ...] = ()
    local: bool = False

    @property
    def sources(self) -> tuple[Lazy, ...]:
        """The tensors that this one is computed from."""
        return (*self.sliced, *self.whole)

    @property
    def by_rows(self) -> bool:
        """Local all the way down."""
        return self.local and all(source.by_rows or len(source.shape) == 1 for source in self.sliced)

    @property
    def row_elements(self) -> int:
        """The widest row of what is sliced: a vector may be made of a matrix."""
        own = super().row_elements
        return max((own, *(source.row_elements for source in self.sliced))) if self.local else own

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Rows start to stop of the operation's result."""
        return self.reader(precision)(start, stop)

    def reader(self, precision: Precision) -> Reader:
        """Rows of the result; what is whole is computed before."""
        whole = [source.value(precision) for source in self.whole]
        readers = [source.reader(precision) for source in self.sliced]

        def rows(start: int, stop: int) -> torch.Tensor:
            if self.local:
                result = self.op(*(read(start, stop) for read in readers), *whole)
            else:
                result = self.op(*(source.value(precision) for source in self.sliced), *whole)[start:stop]
            expected = (stop - start, *self.shape[1:])
            assert tuple(result.shape) == expected, (self.op, tuple(result.shape), expected)
            return result

        return rows


@dataclass(frozen=True)
class DerivedTensor(Lazy):
    """A tensor made from one other tensor; its rows are independent where the source's are."""

    source: Lazy

    @property
    def sources(self) -> tuple[Lazy, ...]:
        """The source alone."""
        return (self.source,)

    @property
    def by_rows(self) -> bool:
        """Whether the source can be computed a block of rows at a time."""
        return self.source.by_rows

    @property
    def row_elements(self) -> int:
        """Elements held to compute one row: those of the source."""
        return self.source.row_elements


@dataclass(frozen=True)
class AssembledTensor(Lazy):
    """A tensor whose rows are rows of other tensors, or the other tensors themselves."""

    parts: tuple[Lazy, ...]

    @property
    def sources(self) -> tuple[Lazy, ...]:
        """The parts."""
        return self.parts


@dataclass(frozen=True)
class Cast(DerivedTensor):
    """A tensor declared in another dtype. Its values are not rounded before they are written."""

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """The source's rows."""
        return self.source.rows(start, stop, precision)

    def reader(self, precision: Precision) -> Reader:
        """The source's."""
        return self.source.reader(precision)


@dataclass(frozen=True)
class Means(DerivedTensor):
    """Rows each of which is the mean of some rows of another tensor, and zero for an empty group.

    A source without independent rows is held whole.
    """

    groups: tuple[tuple[int, ...], ...]

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Means start to stop. A row that several of them are made of is read once."""
        import torch  # noqa: PLC0415 - planning needs no torch

        groups = self.groups[start:stop]
        numbers = sorted({number for group in groups for number in group})
        whole = None if self.by_rows else self.source.value(precision)
        read = self.source.reader(precision) if whole is None else lambda a, b: whole[a:b]
        held = {number: read(number, number + 1)[0] for number in numbers}
        out = torch.zeros((len(groups), *self.shape[1:]), dtype=getattr(torch, precision))
        for row, group in enumerate(groups):
            if group:
                out[row] = torch.stack([held[number] for number in group]).mean(0)
        return out


def cast(tensor: Lazy, dtype: str) -> Lazy:
    """The tensor under another dtype; itself where nothing changes."""
    if tensor.dtype == dtype:
        return tensor
    return Cast(tensor.shape, dtype, tensor)
