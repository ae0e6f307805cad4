"""Lazy tensors of GGUF files: dequantised a block of rows at a time, and rows put back in the order of the family."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.errors import CheckpointError
from kept.gguf.header import types
from kept.ir.tensors import Computed, Derived, InFile, Stored

if TYPE_CHECKING:
    import torch

    from kept.gguf.header import Packed
    from kept.ir.tensors import Lazy, Precision

PLAIN = {"F64": "F64", "F32": "F32", "F16": "F16", "BF16": "BF16"}
"""Types that are numbers as they are, by their safetensors names."""

DECLARED = "BF16"
"""The dtype that quantised weights are written in unless another is asked for: that of nearly all their sources."""


@dataclass(frozen=True)
class Quantised(InFile):
    """Blocks in a file, each of some elements of one row; `kind` is ggml's number for how they are packed."""

    kind: int

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Rows start to stop, dequantised by the gguf package in float32.

        Raises CheckpointError where the file is shorter than its header says.
        """
        import numpy as np  # noqa: PLC0415 - planning needs no numbers
        import torch  # noqa: PLC0415 - the same
        from gguf.constants import GGMLQuantizationType  # noqa: PLC0415 - the same
        from gguf.quants import dequantize  # noqa: PLC0415 - the same

        _, block, size = types()[self.kind]
        row = math.prod(self.shape[1:]) // block * size
        raw = np.empty((stop - start, row), np.uint8)
        self.read_into(raw.reshape(-1).data, self.offset + start * row)
        with np.errstate(all="ignore"):  # a scale may be any number, and what is none is found by those who look
            values = dequantize(raw, GGMLQuantizationType(self.kind))
        found = torch.from_numpy(np.ascontiguousarray(values)).view(stop - start, *self.shape[1:])
        return found.to(getattr(torch, precision))


@dataclass(frozen=True)
class HalfSplit(Derived):
    """A query or key projection with rotary pairs de-interleaved: rows (2i, 2i + 1) of a head become (i, i + half).

    llama.cpp rotates adjacent dimensions and transformers rotates halves, so llama.cpp's converter permutes these rows.
    """

    heads: int

    @property
    def row_elements(self) -> int:
        """Elements held to compute one row: two rows of the source are read for it."""
        return 2 * self.source.row_elements

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Rows start to stop: each run within half a head is every other row of a run twice as long."""
        import torch  # noqa: PLC0415 - planning needs no torch

        half = self.shape[0] // self.heads // 2
        runs, read = [], self.source.reader(precision)
        while start < stop:
            number, at = divmod(start, half)
            count = min(stop - start, half - at)
            head, odd = divmod(number, 2)
            begin = (head * half + at) * 2
            runs.append(read(begin, begin + 2 * count)[odd::2])
            start += count
        return torch.cat(runs)


def lazy(tensor: Packed) -> Lazy:
    """A stored tensor: plain numbers as they are, anything else dequantised."""
    if tensor.kind_name in PLAIN:
        return Stored(tensor.shape, PLAIN[tensor.kind_name], tensor.file, tensor.offset)
    return Quantised(tensor.shape, DECLARED, tensor.file, tensor.offset, tensor.kind)


def half_split(tensor: Lazy, heads: int) -> Lazy:
    """The rows of a projection to heads in the order of the families. Raises CheckpointError where they do not fit."""
    if heads < 1 or tensor.shape[0] % (2 * heads):
        raise CheckpointError(f"has {tensor.shape[0]} rows, which {heads} heads of pairs cannot have")
    return HalfSplit(tensor.shape, tensor.dtype, tensor, heads)


def less_one(tensor: Lazy) -> Lazy:
    """A gain, as families store it whose norms add 1 to it."""
    return Computed(tensor.shape, tensor.dtype, _less_one, (tensor,), local=True)


def _less_one(gain: torch.Tensor) -> torch.Tensor:
    return gain - 1
