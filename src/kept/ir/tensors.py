"""Lazy tensors: dtype and shape are known, bytes are not read until they are written or run.

Values flow between lazy tensors in a working precision (float32, or float64 on request) and are rounded once,
to the declared dtype, when they are written. torch is imported only when bytes are.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    Reader = Callable[[int, int], torch.Tensor]
    """Gives rows start to stop."""

Precision = Literal["float32", "float64"]

BLOCK_ELEMENTS = 1 << 18
"""Elements computed at a time where rows are independent: 1 MB in float32, which a core's own cache holds."""

PIECE = 1 << 20
"""Bytes that are read from each of two files at a time to compare them."""

DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes per element of the dtypes that weights may have, by their safetensors names."""

STORED_BYTES = {
    **DTYPE_BYTES,
    **dict.fromkeys(("I64", "U64"), 8),
    **dict.fromkeys(("I32", "U32"), 4),
    **dict.fromkeys(("I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2"), 1),
}
"""Bytes per element of every dtype that a file may hold, including masks, position ids and quantised weights."""

TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The same dtypes by their torch names."""

WIDER = {"float16": "bfloat16 or float32", "bfloat16": "float32", "float32": "float64"}
"""Dtypes with a wider range or more precision, by torch name."""


def wider(dtype: str) -> str:
    """Return advice for values that overflow in a dtype, by its torch name."""
    return f"kept convert --dtype {WIDER[dtype]} may help" if dtype in WIDER else "no wider dtype can be written"


def torch_dtype(dtype: str) -> torch.dtype:
    """The torch dtype of a safetensors dtype name."""
    import torch  # noqa: PLC0415 - planning needs no torch

    found: torch.dtype = getattr(torch, TORCH_NAMES[dtype])
    return found


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
        """What gives rows: all that every row needs is computed here, once."""
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


def working_precision(dtype: str) -> Precision:
    """The precision in which a tensor of this dtype is computed before it is rounded."""
    return "float64" if dtype == "F64" else "float32"


@dataclass(frozen=True)
class InFile(Lazy, ABC):
    """A tensor in a file, in a plain dtype or quantised."""

    file: Path
    offset: int

    @property
    def by_rows(self) -> bool:
        """Rows of a file are contiguous."""
        return True

    def read_into(self, memory: memoryview, at: int) -> None:
        """Fill `memory` with the file's bytes from offset `at`. Raises CheckpointError if the file is too short."""
        try:
            with self.file.open("rb") as file:
                file.seek(at)
                found = file.readinto(memory)
        except OSError as error:
            raise CheckpointError(f"{self.file}: cannot be read ({error.strerror})") from None
        if found != memory.nbytes:
            raise CheckpointError(f"{self.file.name}: ends before its tensors do; fetch the file again")


@dataclass(frozen=True)
class Stored(InFile):
    """Bytes in a file, which are copied where nothing changes them."""

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Rows start to stop, read from the file.

        Raises CheckpointError where the file is shorter than its header says.
        """
        import torch  # noqa: PLC0415 - planning needs no torch

        row = math.prod(self.shape[1:]) * DTYPE_BYTES[self.dtype]
        # torch's own memory is aligned, and sums over aligned memory are the same in every run.
        out = torch.empty((stop - start, *self.shape[1:]), dtype=torch_dtype(self.dtype))
        self.read_into(out.view(-1).view(torch.uint8).numpy().data, self.offset + start * row)
        return out.to(getattr(torch, precision))

    def numbers(self) -> NDArray[np.float64]:
        """The stored numbers. Raises as `rows` does."""
        import numpy as np  # noqa: PLC0415 - only where numbers are read

        raw = bytearray(self.nbytes)
        self.read_into(memoryview(raw), self.offset)
        if self.dtype == "BF16":  # the upper half of a float32
            return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").astype("f8").reshape(self.shape)
        return np.frombuffer(raw, f"<f{DTYPE_BYTES[self.dtype]}").astype("f8").reshape(self.shape)

    def pieces(self) -> Iterator[bytes]:
        """Yield the stored bytes in pieces of at most 1 MiB. Raises CheckpointError if the file is too short."""
        for start in range(0, self.nbytes, PIECE):
            raw = bytearray(min(PIECE, self.nbytes - start))
            self.read_into(memoryview(raw), self.offset + start)
            yield bytes(raw)


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
class InMemory(Lazy):
    """Values that a pass was handed (calibration results), kept in memory."""

    values: torch.Tensor

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Rows of the given values: a copy, so that a model that is trained does not change them."""
        import torch  # noqa: PLC0415 - planning needs no torch

        return self.values[start:stop].to(getattr(torch, precision), copy=True)


def equal(one: Lazy, other: Lazy) -> bool:
    """Return whether two tensors have the same dtype, shape and values. Stops reading at the first difference."""
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if isinstance(one, Stored) and isinstance(other, Stored):
        return all(a == b for a, b in zip(one.pieces(), other.pieces(), strict=True))
    precision = working_precision(one.dtype)
    whole = (one.value(precision), other.value(precision))
    return bool((whole[0] == whole[1]).all())


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
class Cast(DerivedTensor):
    """The same values under another declared dtype."""

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """The source's rows."""
        return self.source.rows(start, stop, precision)

    def reader(self, precision: Precision) -> Reader:
        """The source's."""
        return self.source.reader(precision)


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


@dataclass(frozen=True)
class Concat(Lazy):
    """Runs of rows of other tensors, one after another."""

    parts: tuple[Lazy, ...]

    @property
    def sources(self) -> tuple[Lazy, ...]:
        """The tensors that this one is computed from."""
        return self.parts

    @property
    def by_rows(self) -> bool:
        """As its parts."""
        return all(part.by_rows for part in self.parts)

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """The rows of the parts that lie between."""
        import torch  # noqa: PLC0415 - planning needs no torch

        return torch.cat([part.rows(a, b, precision) for part, a, b in self.overlaps(start, stop)])

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


def zeros(shape: tuple[int, ...], dtype: str) -> Lazy:
    """A tensor of zeros."""
    return Full(shape, dtype, 0.0)
