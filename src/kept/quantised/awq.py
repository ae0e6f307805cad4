"""AWQ checkpoints (arXiv 2306.00978) in AutoAWQ's `gemm` layout.

A module stores `qweight` (in, out / 8) and `qzeros` (groups, out / 8) with 8 outputs a word, in the order 0, 2, 4, 6,
1, 3, 5, 7 from the lowest bits, and `scales` (groups, out). A weight is (code - zero) x scale. All inputs of an output
are needed to compute a row, so the packed codes of one weight are held at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.errors import CheckpointError
from kept.quantised.gptq import FLOATS, InputMajorValues
from kept.quantised.modules import WAY_OUT, MethodSettings, dequantised, modules
from kept.quantised.raw import raw, unpack
from kept.quantised.weight import Codes, Scaled, Values

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from kept.ir.tensors import Lazy, Stored
    from kept.quantised.modules import Dequantised, Module
    from kept.quantised.weight import QuantisedWeight, Rows

PARTS = ("qweight", "qzeros", "scales")

PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""The field of a word that holds each of its 8 outputs."""

BITS, FIELDS = 4, 8


def ordered(words: torch.Tensor) -> torch.Tensor:
    """Return the codes of each row of words, in order of the outputs."""
    import torch  # noqa: PLC0415 - planning needs no torch

    fields = unpack(words, BITS, words.shape[-1] * FIELDS).view(*words.shape, FIELDS)
    return fields[..., torch.tensor(PLACES)].flatten(-2)


@dataclass(frozen=True)
class AwqCodes(Codes):
    """Codes packed along the outputs, which are the columns of the stored tensor."""

    tensor: Stored

    def decoder(self) -> Rows:
        """Return a function of rows of the weight. The stored tensor is read here."""
        words = raw(self.tensor)

        def rows(start: int, stop: int) -> torch.Tensor:
            first = start // FIELDS
            found = ordered(words[:, first : math.ceil(stop / FIELDS)])
            return found[:, start - first * FIELDS : stop - first * FIELDS].T.float()

        return rows


@dataclass(frozen=True)
class AwqZeros(Values):
    """Zero points packed along the outputs."""

    tensor: Stored

    def matrix(self) -> torch.Tensor:
        """Return the zero points, of shape (out, groups)."""
        return ordered(raw(self.tensor)).T.float()


def read(settings: MethodSettings, tensors: Mapping[str, Lazy]) -> Dequantised:
    """Return the weights of an AWQ checkpoint. Raises CheckpointError for another layout, naming key or tensor."""
    config = settings.config
    form = str(config.get("version") or config.get("format") or "gemm").lower()
    if form != "gemm":
        raise CheckpointError(f"{config.where}: AWQ's version {form[:60]!r} is not read, only gemm; {WAY_OUT}")
    if config.get("bits", BITS) != BITS:
        raise config.wrong("bits", "4, the only size of AWQ's gemm layout")
    return dequantised(modules(tensors, ("qweight",)), lambda module: _weight(module, settings.dtype), PARTS)


def _weight(module: Module, dtype: str) -> QuantisedWeight:
    codes, zeros = module.need("qweight", ("I32",), 2), module.need("qzeros", ("I32",), 2)
    scales = module.need("scales", FLOATS, 2)
    groups, outputs = scales.shape
    inputs = codes.shape[0]
    if codes.shape[1] * FIELDS != outputs or zeros.shape != (groups, codes.shape[1]) or not groups or inputs % groups:
        raise module.wrong("qweight", f"of shape {list(codes.shape)} does not fit scales of {list(scales.shape)}")
    block = (1, inputs // groups)
    kind = f"AWQ, 4 bits, groups of {block[1]}"
    return Scaled(
        (outputs, inputs),
        dtype,
        codes.file,
        codes.offset,
        kind,
        AwqCodes(codes),
        InputMajorValues(scales),
        block,
        AwqZeros(zeros),
    )
