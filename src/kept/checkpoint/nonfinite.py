"""Weights that are no number: NaN and infinity, counted in blocks of the file's own bits. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kept.errors import CheckpointError
from kept.ir.tensors import DTYPE_BYTES, InFile, Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kept.ir.tensors import Lazy

EXPONENTS = {"F64": 0x7FF0_0000_0000_0000, "F32": 0x7F80_0000, "F16": 0x7C00, "BF16": 0x7F80}
"""Bits of the exponent. In NaN and infinity all of them are set; NaN also has bits of the mantissa set."""

BLOCK_BYTES = 1 << 20
"""Bytes that are read at a time: few enough to stay in a core's cache while they are looked at."""


@dataclass(frozen=True)
class NonFinite:
    """How many elements of a tensor are NaN, and how many are infinite."""

    nan: int = 0
    infinite: int = 0

    def __add__(self, other: NonFinite) -> NonFinite:
        return NonFinite(self.nan + other.nan, self.infinite + other.infinite)

    def __bool__(self) -> bool:
        return self.nan + self.infinite > 0

    def __str__(self) -> str:
        """In words: `3 NaN and 1 infinite`."""
        return " and ".join(f"{n} {what}" for n, what in ((self.nan, "NaN"), (self.infinite, "infinite")) if n)


def not_finite(tensor: InFile, progress: Callable[[int], None] | None = None) -> NonFinite:
    """Count NaN and infinity in a tensor, block by block. `progress` is called with the bytes of each block.

    Raises CheckpointError if the file is shorter than its header says.
    """
    return _stored(tensor, progress) if isinstance(tensor, Stored) else _packed(tensor, progress)


def _packed(tensor: InFile, progress: Callable[[int], None] | None) -> NonFinite:
    """Count in a packed tensor (quantised weights), dequantised block by block."""
    found = NonFinite()
    for block in tensor.blocks("float32"):
        found += NonFinite(int(block.isnan().sum()), int(block.isinf().sum()))
        if progress is not None:
            progress(block.numel() * DTYPE_BYTES[tensor.dtype])
    return found


def _stored(tensor: Stored, progress: Callable[[int], None] | None) -> NonFinite:
    """Count in a plain tensor, from the bits of the file."""
    found, left = NonFinite(), tensor.nbytes if tensor.dtype in EXPONENTS else 0
    with tensor.file.open("rb") as file:
        file.seek(tensor.offset)
        while left:
            block = file.read(min(BLOCK_BYTES, left))
            if not block or len(block) % DTYPE_BYTES[tensor.dtype]:
                raise CheckpointError(f"{tensor.file.name}: ends before its tensors do; fetch the file again")
            found, left = found + _count(block, tensor.dtype), left - len(block)
            if progress is not None:
                progress(len(block))
    return found


def first_not_finite(tensors: Mapping[str, Lazy], *, packed: bool = False) -> tuple[str, Path, NonFinite] | None:
    """Return the first tensor with NaN or infinity as (name, file, counts); None if all are finite.

    Packed tensors are checked only if `packed`: dequantising them takes longer, and a writer checks them anyway.
    """
    held = ((name, run) for name, tensor in tensors.items() for run in runs(tensor))
    counted = ((name, run, not_finite(run)) for name, run in held if packed or isinstance(run, Stored))
    return next(((name, run.file, found) for name, run, found in counted if found), None)


def runs(tensor: Lazy) -> tuple[InFile, ...]:
    """Return the stored tensors that a tensor is or is computed from."""
    if isinstance(tensor, InFile):
        return (tensor,)
    return tuple(run for source in tensor.sources for run in runs(source))


def _count(block: bytes, dtype: str) -> NonFinite:
    bits: np.ndarray[Any, np.dtype[Any]] = np.frombuffer(block, f"<u{DTYPE_BYTES[dtype]}")
    mask = bits.dtype.type(EXPONENTS[dtype])
    exponents = bits & mask
    if exponents.max() < mask:
        return NonFinite()
    full = exponents == mask
    total = int(np.count_nonzero(full))
    mantissa = mask.dtype.type((1 << (8 * DTYPE_BYTES[dtype] - 1)) - 1) & ~mask
    nan = int(np.count_nonzero(bits[full] & mantissa))
    return NonFinite(nan, total - nan)
