"""MXFP4 checkpoints of transformers (arXiv 2310.10537): `NAME_blocks` and `NAME_scales` in place of `NAME`.

Blocks of 32 codes of E2M1 are 16 bytes, the low nibble first, of shape (..., out, blocks, 16); a block has one exponent
byte of shape (..., out, blocks). gpt-oss stores its experts like this, (experts, out, in), and its class holds them as
(experts, in, out).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.errors import CheckpointError
from kept.ir.tensors import Stored
from kept.quantised.modules import Dequantised, MethodSettings
from kept.quantised.raw import fp4, numbers, raw
from kept.quantised.weight import QuantisedWeight

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from kept.ir.tensors import Lazy
    from kept.quantised.weight import Rows

BLOCKS, SCALES = "_blocks", "_scales"

BYTES = 16
"""Bytes of a block of 32 codes."""


@dataclass(frozen=True)
class MxFp4(QuantisedWeight):
    """E2M1 code x 2 ** exponent. With three axes, a row is one expert, transposed to (in, out)."""

    codes: Stored
    exponents: Stored

    def decoder(self) -> Rows:
        """Return a function of rows."""

        def rows(start: int, stop: int) -> torch.Tensor:
            found = fp4(raw(self.codes, start, stop)) * numbers(self.exponents, start, stop).unsqueeze(-1)
            matrix = found.flatten(-2)
            return matrix.mT if matrix.ndim == 3 else matrix

        return rows


def read(settings: MethodSettings, tensors: Mapping[str, Lazy]) -> Dequantised:
    """Return the weights of an MXFP4 checkpoint. Raises CheckpointError naming the tensor that does not fit."""
    names = [name.removesuffix(BLOCKS) for name in tensors if name.endswith(BLOCKS)]
    weights = {name: _weight(name, tensors, settings.dtype) for name in names}
    return Dequantised(weights, frozenset(name + part for name in names for part in (BLOCKS, SCALES)))


def _weight(name: str, tensors: Mapping[str, Lazy], dtype: str) -> QuantisedWeight:
    blocks, scales = tensors[name + BLOCKS], tensors.get(name + SCALES)
    if not isinstance(blocks, Stored) or not isinstance(scales, Stored):
        raise CheckpointError(f"{name}{SCALES}: is missing, or a view into another tensor; fetch the checkpoint again")
    plain = blocks.dtype == "U8" and scales.dtype in ("U8", "F8_E8M0") and len(blocks.shape) in (3, 4)
    if not plain or blocks.shape != (*scales.shape, BYTES):
        shapes = f"{list(blocks.shape)} and {list(scales.shape)}"
        raise CheckpointError(f"{name}{BLOCKS}: blocks and scales of shapes {shapes} are not MXFP4; fetch it again")
    *experts, rows, count, _ = blocks.shape
    matrix = (count * BYTES * 2, rows) if experts else (rows, count * BYTES * 2)
    return MxFp4((*experts, *matrix), dtype, blocks.file, blocks.offset, "MXFP4, blocks of 32", blocks, scales)
