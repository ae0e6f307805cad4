"""Lazy tensors of GGUF files: dequantised in blocks of rows, with the converter's row order undone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.errors import CheckpointError
from kept.gguf.header import types
from kept.ir.tensors import Computed, DerivedTensor, InFile, Stored

if TYPE_CHECKING:
    import torch

    from kept.gguf.header import Packed
    from kept.ir.tensors import Lazy, Precision

PLAIN = {"F64": "F64", "F32": "F32", "F16": "F16", "BF16": "BF16"}
"""safetensors dtype of each ggml type that is not quantised."""

DECLARED = "BF16"
"""The default output dtype of quantised weights; most of their original checkpoints have it."""


@dataclass(frozen=True)
class Quantised(InFile):
    """A quantised tensor in a file: blocks of elements within rows. `kind` is ggml's number of the type."""

    kind: int

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Return rows start to stop, dequantised in float32 by the gguf package.

        Raises CheckpointError if the file is shorter than its header says.
        """
        import numpy as np  # noqa: PLC0415 - planning needs no numpy
        import torch  # noqa: PLC0415 - the same
        from gguf.constants import GGMLQuantizationType  # noqa: PLC0415 - the same
        from gguf.quants import dequantize  # noqa: PLC0415 - the same

        _, block, size = types()[self.kind]
        row = math.prod(self.shape[1:]) // block * size
        raw = np.empty((stop - start, row), np.uint8)
        self.read_into(raw.reshape(-1).data, self.offset + start * row)
        with np.errstate(all="ignore"):  # a scale may be NaN or infinity; `finite.py` reports them
            values = dequantize(raw, GGMLQuantizationType(self.kind))
        found = torch.from_numpy(np.ascontiguousarray(values)).view(stop - start, *self.shape[1:])
        return found.to(getattr(torch, precision))


@dataclass(frozen=True)
class HalfSplit(DerivedTensor):
    """A query or key projection with rotary pairs de-interleaved: rows (2i, 2i + 1) of a head become (i, i + half).

    llama.cpp rotates adjacent dimensions and transformers rotates halves, so llama.cpp's converter permutes these rows.
    """

    heads: int

    @property
    def row_elements(self) -> int:
        """Elements held to compute one row: two rows of the source are read for it."""
        return 2 * self.source.row_elements

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Return rows start to stop. Rows within half a head are every second row of a range twice as long."""
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
    """Return a stored tensor as a lazy one, `Quantised` unless its type is plain."""
    if tensor.kind_name in PLAIN:
        return Stored(tensor.shape, PLAIN[tensor.kind_name], tensor.file, tensor.offset)
    return Quantised(tensor.shape, DECLARED, tensor.file, tensor.offset, tensor.kind)


def half_split(tensor: Lazy, heads: int) -> Lazy:
    """Return a projection with rows in transformers' order. Raises CheckpointError if `heads` does not divide them."""
    if heads < 1 or tensor.shape[0] % (2 * heads):
        raise CheckpointError(f"has {tensor.shape[0]} rows, not a multiple of 2 x {heads} heads")
    return HalfSplit(tensor.shape, tensor.dtype, tensor, heads)


def less_one(tensor: Lazy) -> Lazy:
    """Return gain - 1: the form in which a family stores a gain whose norm adds 1."""
    return Computed(tensor.shape, tensor.dtype, _less_one, (tensor,), local=True)


def _less_one(gain: torch.Tensor) -> torch.Tensor:
    return gain - 1
