"""GPTQ checkpoints (arXiv 2210.17323) in the layouts of GPTQModel and AutoGPTQ.

A module stores `qweight` (in x bits / 32, out) with the codes of 32 / bits inputs a word, `qzeros` (groups,
out x bits / 32), `scales` (groups, out) and, with act-order, `g_idx`, the group of each input. In format `gptq` the
stored zero points are less by one; in `gptq_v2` they are not. All inputs of an output are needed to compute a row, so
the packed codes of one weight are held at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.errors import CheckpointError
from kept.quantised.modules import WAY_OUT, MethodSettings, dequantised, modules
from kept.quantised.raw import raw, unpack
from kept.quantised.weight import Codes, Scaled, Values

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from kept.ir.tensors import Lazy, Stored
    from kept.quantised.modules import Dequantised, Module
    from kept.quantised.weight import QuantisedWeight, Rows

PARTS = ("qweight", "qzeros", "scales", "g_idx")

BITS = (2, 3, 4, 8)

FLOATS = ("F16", "BF16", "F32")


@dataclass(frozen=True)
class InputMajorCodes(Codes):
    """Codes packed along the inputs, which are the rows of the stored tensor."""

    tensor: Stored
    bits: int
    inputs: int

    def decoder(self) -> Rows:
        """Return a function of rows of the weight, that is of columns of the stored tensor, which is read here."""
        words = raw(self.tensor)
        return lambda start, stop: unpack(words[:, start:stop].T.contiguous(), self.bits, self.inputs).float()


@dataclass(frozen=True)
class PackedZeros(Values):
    """Zero points packed along the outputs. `less` is what was subtracted before they were packed."""

    tensor: Stored
    bits: int
    outputs: int
    less: int

    def matrix(self) -> torch.Tensor:
        """Return the zero points, of shape (out, groups).

        GPTQModel subtracts from a word of whole fields at once, so a field of 0 borrows from the next: adding to the
        word undoes that. Fields of 3 bits, which cross words, wrap by themselves.
        """
        words, mask = raw(self.tensor).long(), (1 << self.bits) - 1
        if 32 % self.bits == 0:
            return unpack(words + self.less * (0xFFFFFFFF // mask), self.bits, self.outputs).T.float()
        return ((unpack(words, self.bits, self.outputs) + self.less) & mask).T.float()


@dataclass(frozen=True)
class InputMajorValues(Values):
    """Scales stored as (groups, out)."""

    tensor: Stored

    def matrix(self) -> torch.Tensor:
        """Return the scales, of shape (out, groups)."""
        return raw(self.tensor).float().T


def read(settings: MethodSettings, tensors: Mapping[str, Lazy]) -> Dequantised:
    """Return the weights of a GPTQ checkpoint. Raises CheckpointError for another layout, naming key or tensor."""
    config = settings.config
    form = config.get("checkpoint_format") or config.get("format") or "gptq"
    if form not in ("gptq", "gptq_v2"):
        raise CheckpointError(f"{config.where}: checkpoint_format {str(form)[:60]!r} is not read; {WAY_OUT}")
    bits, size = config.get("bits"), config.get("group_size", 128)
    less = int(form == "gptq")

    def weight(module: Module) -> QuantisedWeight:
        return _weight(module, bits, size, less, settings.dtype)

    return dequantised(modules(tensors, ("qweight",)), weight, PARTS)


def _weight(module: Module, stated: object, size: object, less: int, dtype: str) -> QuantisedWeight:
    codes, zeros = module.need("qweight", ("I32",), 2), module.need("qzeros", ("I32",), 2)
    scales = module.need("scales", FLOATS, 2)
    groups, outputs = scales.shape
    bits = _bits(module, zeros, outputs, stated)
    inputs = codes.shape[0] * 32 // bits
    if codes.shape[1] != outputs or zeros.shape != (groups, math.ceil(outputs * bits / 32)) or groups == 0:
        raise module.wrong("qweight", f"of shape {list(codes.shape)} does not fit scales of {list(scales.shape)}")
    order = module.get("g_idx")
    if order is not None and (order.shape != (inputs,) or order.dtype not in ("I32", "I64")):
        raise module.wrong(
            "g_idx", f"is {order.dtype} of shape {list(order.shape)}, the format needs {inputs} integers"
        )
    wide = size if type(size) is int and size > 0 and math.ceil(inputs / size) == groups else math.ceil(inputs / groups)
    kind = f"GPTQ, {bits} bits, groups of {wide}"
    return Scaled(
        (outputs, inputs),
        dtype,
        codes.file,
        codes.offset,
        kind,
        InputMajorCodes(codes, bits, inputs),
        InputMajorValues(scales),
        (1, wide),
        PackedZeros(zeros, bits, outputs, less),
        order,
    )


def _bits(module: Module, zeros: Stored, outputs: int, stated: object) -> int:
    """Return the bits of a code: the config's if they fit, else those of the shapes (`dynamic` sets them by module)."""
    fitting = [bits for bits in BITS if math.ceil(outputs * bits / 32) == zeros.shape[1]]
    if stated in fitting:
        return int(str(stated))
    if len(fitting) != 1:
        raise module.wrong("qzeros", f"has shape {list(zeros.shape)}, which fits no code of 2, 3, 4 or 8 bits")
    return fitting[0]
