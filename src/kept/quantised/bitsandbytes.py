"""bitsandbytes checkpoints: 4 bits (nf4 and fp4, QLoRA, arXiv 2305.14314) and 8 bits (LLM.int8, arXiv 2208.07339).

A 4-bit weight is a table's value x the absolute maximum of its block. Blocks run over the flattened matrix. With double
quantisation, absolute maxima are codes of 8 bits themselves: table x maximum of their block + offset. An 8-bit weight
is int8 x the absolute maximum of its row / 127.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import parse
from kept.errors import reason
from kept.quantised.modules import MethodSettings, dequantised, modules
from kept.quantised.raw import content, nibbles, numbers, raw, raw_bytes
from kept.quantised.weight import PlainCodes, PlainValues, QuantisedWeight, Scaled

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from kept.ir.tensors import Lazy, Stored
    from kept.quantised.modules import Dequantised, Module
    from kept.quantised.weight import Rows

STATES = ("nf4", "fp4")
"""Kinds of 4-bit tables; the name of the state tensor ends with one."""

STATE = "weight.quant_state.bitsandbytes__"

FOUR_BIT = ("weight", "weight.absmax", "weight.quant_map", "weight.nested_absmax", "weight.nested_quant_map")

EIGHT_BIT = ("weight", "SCB", "weight_format")

LONGEST_STATE = 4096
"""Bytes of the JSON text of a state."""

ROW_MAJOR = 0
"""The only value of `weight_format` that current versions write; others are layouts of old GPUs."""

BY_127 = 7.874015718698502e-3
"""1 / 127, as bitsandbytes writes it."""


@dataclass(frozen=True)
class NestedMaxima:
    """Absolute maxima that are quantised themselves: codes, their table, maxima of their blocks, and an offset."""

    table: Stored
    maxima: Stored
    block: int
    offset: float


@dataclass(frozen=True)
class FourBit(QuantisedWeight):
    """A 4-bit weight: two codes a byte, the high nibble first. `block` elements share an absolute maximum."""

    codes: Stored
    table: Stored
    maxima: Stored
    block: int
    nested: NestedMaxima | None

    def decoder(self) -> Rows:
        """Return a function of rows. The table and the absolute maxima are read here."""
        table, maxima, width = numbers(self.table), self._maxima(), self.shape[1]

        def rows(start: int, stop: int) -> torch.Tensor:
            first, last = start * width, stop * width
            packed = raw_bytes(self.codes, first // 2, math.ceil(last / 2))
            swapped = nibbles(packed).view(-1, 2).flip(1).flatten()
            codes = swapped[first % 2 : first % 2 + last - first]
            blocks = _blocks(first, last, self.block)
            return (table[codes] * maxima[blocks]).view(stop - start, width)

        return rows

    def _maxima(self) -> torch.Tensor:
        if self.nested is None:
            return numbers(self.maxima).flatten()
        codes, inner = raw(self.maxima).flatten().long(), self.nested
        outer = numbers(inner.maxima).flatten()[_blocks(0, len(codes), inner.block)]
        return numbers(inner.table)[codes] * outer + inner.offset


def _blocks(start: int, stop: int, size: int) -> torch.Tensor:
    """Return the number of the block of each element from start to stop."""
    import torch  # noqa: PLC0415 - planning needs no torch

    return torch.arange(start, stop) // size


def read(settings: MethodSettings, tensors: Mapping[str, Lazy]) -> Dequantised:
    """Return the weights of a bitsandbytes checkpoint. Raises CheckpointError naming the tensor that does not fit."""
    if settings.config.get("load_in_8bit"):
        note = "the quantised model rounds activations to int8 (LLM.int8); the output does not"
        return dequantised(modules(tensors, ("SCB",)), lambda one: _eight_bit(one, settings.dtype), EIGHT_BIT, (note,))
    marks = tuple(STATE + kind for kind in STATES)
    return dequantised(modules(tensors, marks), lambda one: _four_bit(one, settings.dtype), (*FOUR_BIT, *marks))


def _eight_bit(module: Module, dtype: str) -> QuantisedWeight:
    codes, scale = module.need("weight", ("I8",), 2), module.need("SCB", ("F32", "F16", "BF16"), 1)
    form = module.get("weight_format")
    if form is not None and form.dtype == "U8" and content(form)[:1] != bytes([ROW_MAJOR]):
        raise module.wrong(
            "weight_format", "is not 0, the layout by rows; load and save it with a current bitsandbytes"
        )
    if scale.shape != codes.shape[:1]:
        raise module.wrong("SCB", f"has shape {list(scale.shape)}, the weight {list(codes.shape)}")
    kind, block = "bitsandbytes, 8 bits", (1, codes.shape[1])
    return Scaled(
        codes.shape, dtype, codes.file, codes.offset, kind, PlainCodes(codes), PlainValues(scale), block, factor=BY_127
    )


def _four_bit(module: Module, dtype: str) -> QuantisedWeight:
    part, kind = next((STATE + kind, kind) for kind in STATES if module.get(STATE + kind) is not None)
    state = _state(module, part)
    shape, block = state.get("shape"), _size(state.get("blocksize"))
    if not (isinstance(shape, list) and len(shape) == 2 and all(map(_size, shape)) and block):
        raise module.wrong(part, "has no shape of two axes and blocksize; fetch the checkpoint again")
    codes, table = module.get("weight"), module.need("weight.quant_map", ("F32",), 1)
    count = math.prod(shape)
    if codes is None or codes.nbytes != math.ceil(count / 2) or table.shape != (16,):
        raise module.wrong("weight", f"does not hold {count} codes of 4 bits; fetch the checkpoint again")
    nested = _nested(module, part, state)
    maxima = module.need("weight.absmax", ("F32",) if nested is None else ("U8",), 1)
    if maxima.shape != (math.ceil(count / block),):
        raise module.wrong("weight.absmax", f"has shape {list(maxima.shape)}, blocks of {block} need another")
    words = f"bitsandbytes {kind}, blocks of {block}" + ("" if nested is None else ", double quantisation")
    return FourBit((shape[0], shape[1]), dtype, codes.file, codes.offset, words, codes, table, maxima, block, nested)


def _state(module: Module, part: str) -> dict[str, Any]:
    """Return the JSON object of a state tensor. Raises CheckpointError if it holds none."""
    stored = module.need(part, ("U8",), 1)
    if stored.nbytes > LONGEST_STATE:
        raise module.wrong(part, f"has more than {LONGEST_STATE} bytes; fetch the checkpoint again")
    try:
        found = parse(content(stored))
    except (ValueError, RecursionError) as error:
        raise module.wrong(part, f"is not JSON ({reason(error)}); fetch the checkpoint again") from None
    if not isinstance(found, dict):
        raise module.wrong(part, "is not a JSON object; fetch the checkpoint again")
    return found


def _nested(module: Module, part: str, state: Mapping[str, Any]) -> NestedMaxima | None:
    if module.get("weight.nested_absmax") is None:
        return None
    maxima = module.need("weight.nested_absmax", ("F32",), 1)
    table = module.need("weight.nested_quant_map", ("F32",), 1)
    block, offset = _size(state.get("nested_blocksize")), state.get("nested_offset")
    coded = module.need("weight.absmax", ("U8",), 1)
    if not block or not isinstance(offset, int | float) or not math.isfinite(offset):
        raise module.wrong(part, "has no nested_blocksize and nested_offset; fetch the checkpoint again")
    if table.shape != (256,) or maxima.shape != (math.ceil(coded.shape[0] / block),):
        raise module.wrong("weight.nested_absmax", f"has shape {list(maxima.shape)}, blocks of {block} need another")
    return NestedMaxima(table, maxima, block, float(offset))


def _size(value: object) -> int:
    """Return a positive integer; 0 for anything else."""
    return value if isinstance(value, int) and type(value) is int and value > 0 else 0
