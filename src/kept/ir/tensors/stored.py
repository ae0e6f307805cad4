"""Tensors in files: byte ranges that are read when needed, and copied where nothing changes them."""

from __future__ import annotations

import math
from abc import ABC
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.errors import CheckpointError
from kept.ir.tensors.dtypes import DTYPE_BYTES, torch_dtype
from kept.ir.tensors.lazy import Lazy

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray

    from kept.ir.tensors.dtypes import Precision

PIECE = 1 << 20
"""Bytes that are read from each of two files at a time to compare them."""


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
        """Rows start to stop, read from the file. Raises as `stored_rows` does."""
        import torch  # noqa: PLC0415 - planning needs no torch

        return self.stored_rows(start, stop).to(getattr(torch, precision))

    def stored_rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows start to stop in their own dtype.

        Raises CheckpointError where the file is shorter than its header says.
        """
        import torch  # noqa: PLC0415 - planning needs no torch

        row = math.prod(self.shape[1:]) * DTYPE_BYTES[self.dtype]
        # torch's own memory is aligned, and sums over aligned memory are the same in every run.
        out = torch.empty((stop - start, *self.shape[1:]), dtype=torch_dtype(self.dtype))
        self.read_into(out.view(-1).view(torch.uint8).numpy().data, self.offset + start * row)
        return out

    def numbers(self) -> NDArray[np.float64]:
        """The stored numbers. Raises as `rows` does."""
        import numpy as np  # noqa: PLC0415 - only where numbers are read

        raw = bytearray(self.nbytes)
        self.read_into(memoryview(raw), self.offset)
        if self.dtype == "BF16":  # the upper half of a float32
            return (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4").astype("f8").reshape(self.shape)
        return np.frombuffer(raw, f"<f{DTYPE_BYTES[self.dtype]}").astype("f8").reshape(self.shape)

    def same_bytes(self, other: Stored) -> bool:
        """Return whether both have the same bytes in their files. Raises CheckpointError if a file is too short."""
        if self.nbytes != other.nbytes:
            return False
        pieces = bytearray(PIECE), bytearray(PIECE)
        for start in range(0, self.nbytes, PIECE):
            for tensor, piece in zip((self, other), pieces, strict=True):
                size = min(PIECE, self.nbytes - start)
                tensor.read_into(memoryview(piece)[:size], tensor.offset + start)
            if pieces[0] != pieces[1]:  # behind a shorter last piece is what was equal before
                return False
        return True
