"""Read stored integers, float8 values and packed bits as torch tensors, in their own dtype."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kept.ir.tensors import STORED_BYTES, TORCH_NAMES

if TYPE_CHECKING:
    import torch

    from kept.ir.tensors import Stored

NAMES = {
    **TORCH_NAMES,
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "uint8",
}
"""torch name of each safetensors dtype that a quantised module may store."""

FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
"""Values of the 16 codes of E2M1, the 4-bit float of the OCP microscaling formats (arXiv 2310.10537)."""

E8M0 = (*(2.0 ** (byte - 127) for byte in range(255)), float("nan"))
"""Values of the 256 codes of E8M0, a byte of exponent only (arXiv 2310.10537)."""


def raw(tensor: Stored, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """Return rows start to stop in the stored dtype. Raises CheckpointError if the file is too short."""
    import torch  # noqa: PLC0415 - planning needs no torch

    dtype, inner = getattr(torch, NAMES[tensor.dtype]), tensor.shape[1:]
    if not tensor.shape:
        return raw_bytes(tensor, 0, tensor.nbytes).view(dtype)[0]
    row = math.prod(inner) * STORED_BYTES[tensor.dtype]
    stop = tensor.shape[0] if stop is None else stop
    return raw_bytes(tensor, start * row, stop * row).view(dtype).view(stop - start, *inner)


def raw_bytes(tensor: Stored, start: int, stop: int) -> torch.Tensor:
    """Return bytes start to stop of a stored tensor as uint8."""
    import torch  # noqa: PLC0415 - planning needs no torch

    out = torch.empty(stop - start, dtype=torch.uint8)
    tensor.read_into(out.numpy().data, tensor.offset + start)
    return out


def content(tensor: Stored) -> bytes:
    """Return all bytes of a small tensor, without torch."""
    out = bytearray(tensor.nbytes)
    tensor.read_into(memoryview(out), tensor.offset)
    return bytes(out)


def integers(tensor: Stored) -> list[int]:
    """Return the values of a small vector of I32 or I64, without torch."""
    size, values = STORED_BYTES[tensor.dtype], content(tensor)
    return [int.from_bytes(values[at : at + size], "little", signed=True) for at in range(0, len(values), size)]


def numbers(tensor: Stored, start: int = 0, stop: int | None = None) -> torch.Tensor:
    """Return rows start to stop as float32. Unsigned bytes are E8M0 exponents."""
    import torch  # noqa: PLC0415 - planning needs no torch

    found = raw(tensor, start, stop)
    return torch.tensor(E8M0)[found.long()] if found.dtype == torch.uint8 else found.float()


def unpack(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Return the first `count` fields of `bits` bits from each row of 32-bit words, lowest bits first.

    Fields follow each other without gaps, so those of 3, 5, 6 or 7 bits cross the border of two words.
    """
    import torch  # noqa: PLC0415 - planning needs no torch

    mask = (1 << bits) - 1
    if 32 % bits == 0:
        shifts = torch.arange(0, 32, bits, dtype=torch.int32)
        return ((words.unsqueeze(-1) >> shifts) & mask).flatten(-2)[..., :count]
    first = torch.arange(count) * bits
    at, shift = first // 32, first % 32
    wide = torch.nn.functional.pad(words.long() & 0xFFFFFFFF, (0, 1))
    return (((wide[..., at] | (wide[..., at + 1] << 32)) >> shift) & mask).int()


def nibbles(packed: torch.Tensor) -> torch.Tensor:
    """Return the two 4-bit fields of each byte of the last axis, the low one first, as indices."""
    import torch  # noqa: PLC0415 - planning needs no torch

    return torch.stack((packed & 0xF, packed >> 4), -1).flatten(-2).long()


def fp4(packed: torch.Tensor) -> torch.Tensor:
    """Return the E2M1 values of packed bytes, two a byte, the low nibble first."""
    import torch  # noqa: PLC0415 - planning needs no torch

    return torch.tensor(FP4)[nibbles(packed)]
