"""How a slot is laid out in stored tensors: the names, the shapes, and the maps in both directions.

`from_slot` is the inverse of `to_slot`: a stored tensor that is read and written again is the stored tensor itself, so
that its bytes are copied.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.ir.spec import Attention
from kept.ir.tensors import AssembledTensor, Lazy, Stored, join, take_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from kept.ir.spec import Operation
    from kept.ir.tensors import Precision

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout(ABC):
    """How a slot is stored. `operation` is the operation of the slot's branch; None for slots outside operations."""

    def stored_shapes(self, name: str, shape: Shape) -> Mapping[str, Shape]:
        """Return the shape of each stored tensor by name, for a slot of shape `shape`."""
        return {name: shape}

    @abstractmethod
    def to_slot(self, stored: Sequence[Lazy], operation: Operation | None) -> Lazy:
        """Return the slot's tensor from the stored ones, in the order of `stored_shapes`."""

    @abstractmethod
    def from_slot(self, tensor: Lazy, operation: Operation | None) -> list[Lazy]:
        """Return the stored tensors from the slot's, in the order of `stored_shapes`."""

    @property
    def of_bias(self) -> Layout:
        """The layout of the bias of a projection whose weight has this layout."""
        return self


@dataclass(frozen=True)
class Same(Layout):
    """Stored as the slot has it."""

    def to_slot(self, stored: Sequence[Lazy], operation: Operation | None) -> Lazy:  # noqa: ARG002 - any operation
        """Return the stored tensor."""
        return stored[0]

    def from_slot(self, tensor: Lazy, operation: Operation | None) -> list[Lazy]:  # noqa: ARG002 - the same
        """Return the slot's tensor."""
        return [tensor]


@dataclass(frozen=True)
class Transposed(Layout):
    """A matrix stored as (in, out)."""

    def stored_shapes(self, name: str, shape: Shape) -> Mapping[str, Shape]:
        """Return the two sizes exchanged."""
        return {name: (shape[1], shape[0])}

    def to_slot(self, stored: Sequence[Lazy], operation: Operation | None) -> Lazy:  # noqa: ARG002 - any operation
        """Return the transpose."""
        return transposed(stored[0])

    def from_slot(self, tensor: Lazy, operation: Operation | None) -> list[Lazy]:  # noqa: ARG002 - the same
        """Return the transpose."""
        return [transposed(tensor)]

    @property
    def of_bias(self) -> Layout:
        """A vector has nothing to transpose."""
        return Same()


@dataclass(frozen=True)
class Stacked(Layout):
    """One stored tensor for each row of the slot, such as one for each head; `{h}` in the name is its number."""

    def stored_shapes(self, name: str, shape: Shape) -> Mapping[str, Shape]:
        """Return the shape of a row, under the name with each number."""
        return {name.replace("{h}", str(row)): shape[1:] for row in range(shape[0])}

    def to_slot(self, stored: Sequence[Lazy], operation: Operation | None) -> Lazy:  # noqa: ARG002 - any operation
        """Return the stored tensors as rows of one."""
        return StackedTensor((len(stored), *stored[0].shape), stored[0].dtype, tuple(stored))

    def from_slot(self, tensor: Lazy, operation: Operation | None) -> list[Lazy]:  # noqa: ARG002 - the same
        """Return the rows."""
        return [row_of(tensor, row) for row in range(tensor.shape[0])]


@dataclass(frozen=True)
class Grouped(Layout):
    """A fused projection stored by key-value head: its query heads, its key, its value, then the next head's.

    The slot has all queries, then all keys, then all values.
    """

    def to_slot(self, stored: Sequence[Lazy], operation: Operation | None) -> Lazy:
        """Return the rows by part."""
        return join([take_rows(stored[0], *rows) for rows in _rows_by_part(_attention(operation))])

    def from_slot(self, tensor: Lazy, operation: Operation | None) -> list[Lazy]:
        """Return the rows by key-value head."""
        return [join([take_rows(tensor, *rows) for rows in _rows_by_group(_attention(operation))])]


def _attention(operation: Operation | None) -> Attention:
    assert isinstance(operation, Attention), "only attention has key-value heads"
    return operation


def _rows_by_part(attention: Attention) -> Iterator[tuple[int, int]]:
    """Yield runs of rows of a grouped projection: first all queries, then all keys, then all values."""
    size, queries = attention.head_dim, attention.heads // attention.kv_heads
    for offset, heads in ((0, queries), (queries, 1), (queries + 1, 1)):
        for group in range(attention.kv_heads):
            start = (group * (queries + 2) + offset) * size
            yield start, start + heads * size


def _rows_by_group(attention: Attention) -> Iterator[tuple[int, int]]:
    """Yield runs of rows of a projection in parts: for each key-value head its queries, its key, its value."""
    size, queries = attention.head_dim, attention.heads // attention.kv_heads
    for group in range(attention.kv_heads):
        key = attention.heads + group
        for start, heads in ((group * queries, queries), (key, 1), (key + attention.kv_heads, 1)):
            yield start * size, (start + heads) * size


# ------------------------------------------------------------------------------------------------------ lazy tensors


@dataclass(frozen=True)
class TransposedTensor(Lazy):
    """The transpose of a matrix."""

    source: Lazy

    @property
    def sources(self) -> tuple[Lazy, ...]:
        """The matrix."""
        return (self.source,)

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Return columns start to stop of the matrix, as rows. Reads the whole matrix."""
        return self.source.value(precision).T[start:stop]


@dataclass(frozen=True)
class StackedTensor(AssembledTensor):
    """Tensors of one shape as the rows of one."""

    @property
    def by_rows(self) -> bool:
        """Whether a block of rows can be computed without the others: each row is a tensor of its own."""
        return True

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Return tensors start to stop."""
        import torch  # noqa: PLC0415 - planning needs no torch

        return torch.stack([part.value(precision) for part in self.parts[start:stop]])


@dataclass(frozen=True)
class RowOf(Lazy):
    """One row of a tensor, without the first axis."""

    source: Lazy
    row: int

    @property
    def sources(self) -> tuple[Lazy, ...]:
        """The tensor that has the row."""
        return (self.source,)

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Return elements start to stop of the row."""
        return self.source.rows(self.row, self.row + 1, precision)[0][start:stop]


def transposed(tensor: Lazy) -> Lazy:
    """Return the transpose of a matrix; of a transpose the matrix itself."""
    if isinstance(tensor, TransposedTensor):
        return tensor.source
    return TransposedTensor((tensor.shape[1], tensor.shape[0]), tensor.dtype, tensor)


def row_of(tensor: Lazy, row: int) -> Lazy:
    """Return one row without the first axis: the tensor that was stacked, or a range of a file, if it is one."""
    if isinstance(tensor, StackedTensor):
        return tensor.parts[row]
    run = take_rows(tensor, row, row + 1)
    if isinstance(run, Stored):
        return Stored(tensor.shape[1:], tensor.dtype, run.file, run.offset)
    return RowOf(tensor.shape[1:], tensor.dtype, tensor, row)
