"""FP8 checkpoints of transformers: `fp8` (DeepSeek's blocks, or one scale a tensor), `mxfp8` and `fbgemm_fp8`.

A weight is float8 x scale. `weight_scale_inv` has a value for each block of `weight_block_size`, or one for the tensor;
`weight_scale` of `fbgemm_fp8` has one for each row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.quantised.modules import MethodSettings, block_of, dequantised, modules
from kept.quantised.weight import PlainCodes, PlainValues, Scaled

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.ir.tensors import Lazy
    from kept.quantised.modules import Dequantised, Module
    from kept.quantised.weight import QuantisedWeight

FLOAT8 = ("F8_E4M3", "F8_E5M2")

SCALES = ("weight_scale_inv", "qscale_weight", "weight_scale")
"""Names of the scales: transformers', Mistral's and fbgemm's."""

DROPPED = ("activation_scale", "qscale_act", "input_scale", "input_scale_ub")
"""Scales of activations, which the output does not quantise."""


def read(settings: MethodSettings, tensors: Mapping[str, Lazy]) -> Dequantised:
    """Return the weights of an FP8 checkpoint. Raises CheckpointError naming the tensor that does not fit."""
    config = settings.config
    stated = config.get("weight_block_size")
    if stated is not None and not (isinstance(stated, list) and len(stated) == 2 and all(map(_is_size, stated))):
        raise config.wrong("weight_block_size", "two positive integers, rows and columns")
    scheme = config.get("activation_scheme", "dynamic")
    note = f"the quantised model rounds activations to float8 ({scheme} scales); the output does not"

    def weight(module: Module) -> QuantisedWeight:
        return _weight(module, stated, settings.dtype)

    return dequantised(modules(tensors, SCALES), weight, ("weight", *SCALES, *DROPPED), (note,))


def _weight(module: Module, stated: list[int] | None, dtype: str) -> QuantisedWeight:
    codes = module.need("weight", FLOAT8, 2)
    part = next(part for part in SCALES if module.get(part) is not None)
    stored = module.get(part)
    assert stored is not None
    scale = module.need(part, ("F32", "BF16", "F16", "U8", "F8_E8M0"), len(stored.shape))
    block = block_of(module, part, codes.shape, scale.shape, stated)
    what = "a tensor" if block == codes.shape else "a row" if block == (1, codes.shape[1]) else f"{block[0]}x{block[1]}"
    kind = f"{codes.dtype}, scales {'per block of' if 'x' in what else 'for'} {what}"
    return Scaled(codes.shape, dtype, codes.file, codes.offset, kind, PlainCodes(codes), PlainValues(scale), block)


def _is_size(value: object) -> bool:
    return type(value) is int and value > 0
