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

    import torch

Precision = Literal["float32", "float64"]

DTYPE_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""Bytes per element of the dtypes that weights may have, by their safetensors names."""

TORCH_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The same dtypes by their torch names."""


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
        return math.prod(self.shape) * DTYPE_BYTES[self.dtype]

    @property
    def by_rows(self) -> bool:
        """Whether a block of rows can be computed without the other rows."""
        return False

    @abstractmethod
    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Rows start to stop (of the first axis) in the working precision."""

    def value(self, precision: Precision = "float32") -> torch.Tensor:
        """The whole tensor in the working precision."""
        return self.rows(0, self.shape[0], precision)

    def read(self) -> torch.Tensor:
        """The whole tensor, rounded to its declared dtype."""
        return self.value(working_precision(self.dtype)).to(torch_dtype(self.dtype))


def working_precision(dtype: str) -> Precision:
    """The precision in which a tensor of this dtype is computed before it is rounded."""
    return "float64" if dtype == "F64" else "float32"


@dataclass(frozen=True)
class Stored(Lazy):
    """Bytes in a file: what the kernel can copy without this process reading them."""

    file: Path
    offset: int

    @property
    def by_rows(self) -> bool:
        """Rows of a file are contiguous."""
        return True

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Rows start to stop, read from the file.

        Raises CheckpointError where the file is shorter than its header says.
        """
        import torch  # noqa: PLC0415 - planning needs no torch

        row = math.prod(self.shape[1:]) * DTYPE_BYTES[self.dtype]
        # torch's own memory is aligned, and sums over aligned memory are the same in every run.
        out = torch.empty((stop - start, *self.shape[1:]), dtype=torch_dtype(self.dtype))
        raw = out.view(-1).view(torch.uint8).numpy()
        with self.file.open("rb") as file:
            file.seek(self.offset + start * row)
            if file.readinto(raw.data) != raw.nbytes:
                raise CheckpointError(f"{self.file.name}: ends before its tensors do; fetch the file again")
        return out.to(getattr(torch, precision))


@dataclass(frozen=True)
class Filled(Lazy):
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
class Given(Lazy):
    """Values that a pass was handed (calibration results), kept in memory."""

    values: torch.Tensor

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Rows of the given values: a copy, so that a model that is trained does not change them."""
        import torch  # noqa: PLC0415 - planning needs no torch

        return self.values[start:stop].to(getattr(torch, precision), copy=True)


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
    def by_rows(self) -> bool:
        """Local all the way down."""
        return self.local and all(source.by_rows or len(source.shape) == 1 for source in self.sliced)

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Rows start to stop of the operation's result."""
        whole = [source.value(precision) for source in self.whole]
        if self.local:
            result = self.op(*(source.rows(start, stop, precision) for source in self.sliced), *whole)
        else:
            result = self.op(*(source.value(precision) for source in self.sliced), *whole)[start:stop]
        expected = (stop - start, *self.shape[1:])
        assert tuple(result.shape) == expected, (self.op, tuple(result.shape), expected)
        return result


@dataclass(frozen=True)
class Cast(Lazy):
    """The same values under another declared dtype."""

    source: Lazy

    @property
    def by_rows(self) -> bool:
        """As its source."""
        return self.source.by_rows

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """The source's rows."""
        return self.source.rows(start, stop, precision)


@dataclass(frozen=True)
class Rows(Lazy):
    """A run of another tensor's rows."""

    source: Lazy
    first: int

    @property
    def by_rows(self) -> bool:
        """As its source."""
        return self.source.by_rows

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """The source's rows, moved by where the run begins."""
        return self.source.rows(self.first + start, self.first + stop, precision)


def cast(tensor: Lazy, dtype: str) -> Lazy:
    """The tensor under another dtype; itself where nothing changes."""
    if tensor.dtype == dtype:
        return tensor
    return Cast(tensor.shape, dtype, tensor)


@dataclass(frozen=True)
class Joined(Lazy):
    """Runs of rows of other tensors, one after another."""

    parts: tuple[Lazy, ...]

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
    return Joined((sum(part.shape[0] for part in out), *out[0].shape[1:]), out[0].dtype, tuple(out))


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
    if isinstance(tensor, Joined):
        return join([take_rows(part, a, b) for part, a, b in tensor.overlaps(start, stop)])
    return Rows(shape, tensor.dtype, tensor, start)


def zeros(shape: tuple[int, ...], dtype: str) -> Lazy:
    """A tensor of zeros."""
    return Filled(shape, dtype, 0.0)
