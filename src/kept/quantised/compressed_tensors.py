"""compressed-tensors checkpoints (llm-compressor): packed integers, int8, float8 and 4-bit floats.

The tensors of a module state its scheme: their names and dtypes the format, the shape of the scales which elements
share one. So no pattern of the config's `targets` is evaluated. A weight is (code - zero) x scale; integers are signed,
and packed ones are stored with 2 ** (bits - 1) added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.quantised.modules import WAY_OUT, Dequantised, MethodSettings, block_of, dequantised, modules
from kept.quantised.raw import fp4, integers, raw, unpack
from kept.quantised.weight import Codes, PlainCodes, PlainValues, Scaled, Values

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from kept.families.config import Config
    from kept.ir.tensors import Lazy, Stored
    from kept.quantised.modules import Module
    from kept.quantised.weight import QuantisedWeight, Rows

FORMATS = (
    *("pack-quantized", "int-quantized", "naive-quantized", "float-quantized", "mixed-precision", "dense"),
    *("mxfp4-pack-quantized", "mxfp8-quantized", "nvfp4-pack-quantized"),
)

FLOATS = ("F32", "BF16", "F16")

EXPONENTS = ("U8", "F8_E8M0")

PARTS = (
    *("weight", "weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx"),
    *("weight_global_scale", "input_scale", "input_zero_point", "input_global_scale"),
    *("output_scale", "output_zero_point"),
)

CACHE = ("k_scale", "v_scale", "q_scale", "k_zero_point", "v_zero_point", "q_zero_point")
"""Scales of a quantised KV cache, which the output does not quantise."""


@dataclass(frozen=True)
class PackedCodes(Codes):
    """Signed integers packed along the columns, with 2 ** (bits - 1) added."""

    tensor: Stored
    bits: int
    columns: int

    def decoder(self) -> Rows:
        """Return a function of rows."""
        offset = 1 << (self.bits - 1)
        return lambda start, stop: (unpack(raw(self.tensor, start, stop), self.bits, self.columns) - offset).float()


@dataclass(frozen=True)
class Fp4Codes(Codes):
    """E2M1 codes, two a byte, the low nibble first."""

    tensor: Stored

    def decoder(self) -> Rows:
        """Return a function of rows."""
        return lambda start, stop: fp4(raw(self.tensor, start, stop))


@dataclass(frozen=True)
class PackedZeroPoints(Values):
    """Zero points packed along the rows, with 2 ** (bits - 1) added."""

    tensor: Stored
    bits: int
    rows: int

    def matrix(self) -> torch.Tensor:
        """Return the zero points, of shape (out, groups)."""
        fields = unpack(raw(self.tensor).T.contiguous(), self.bits, self.rows)
        return (fields - (1 << (self.bits - 1))).T.float()


def read(settings: MethodSettings, tensors: Mapping[str, Lazy]) -> Dequantised:
    """Return the weights of a compressed-tensors checkpoint.

    Raises CheckpointError naming a key whose format or transform is not read, or a tensor that does not fit.
    """
    config = settings.config
    _check(config)
    groups = [*_groups(config)]
    bits = {one["num_bits"] for one in groups if type(one.get("num_bits")) is int and 1 <= one["num_bits"] <= 8}
    blocks = {tuple(one["block_structure"]) for one in groups if _is_block(one.get("block_structure"))}
    stated = [*blocks.pop()] if len(blocks) == 1 else None
    shifted = bool(groups) and all(one.get("symmetric") is False for one in groups)

    def weight(module: Module) -> QuantisedWeight:
        if shifted and module.get("weight_zero_point") is None:
            raise module.wrong("weight_zero_point", "is missing, the config says that weights are not symmetric")
        return _weight(module, bits, stated, settings.dtype)

    found = dequantised(modules(tensors, ("weight_scale",)), weight, PARTS, tuple(_notes(config)))
    cached = {name for name in tensors if name.rpartition(".")[2] in CACHE}
    return Dequantised(found.weights, found.replaced | cached, found.notes)


def _check(config: Config) -> None:
    """Raise CheckpointError for what changes weights beyond a scale."""
    form = config.get("format")
    if form not in FORMATS and form is not None:
        raise CheckpointError(f"{config.where}: format {str(form)[:60]!r} is not read; {WAY_OUT}")
    sparse = config.section("sparsity_config").get("format", "dense")
    if sparse != "dense":
        raise CheckpointError(f"{config.where}: sparsity_config format {str(sparse)[:60]!r} is not read; {WAY_OUT}")
    if config.section("transform_config").get("config_groups"):
        raise CheckpointError(f"{config.where}: transform_config rotates activations, which is not read; {WAY_OUT}")
    status = config.get("quantization_status", "compressed")
    if status != "compressed":
        raise config.wrong("quantization_status", "compressed: other states store weights before quantisation")


def _groups(config: Config) -> Iterator[Mapping[str, Any]]:
    """Yield the weight arguments of the config's groups."""
    for group in config.section("config_groups").keys.values():
        if isinstance(group, dict) and isinstance(group.get("weights"), dict):
            yield group["weights"]


def _notes(config: Config) -> Iterator[str]:
    groups = [group for group in config.section("config_groups").keys.values() if isinstance(group, dict)]
    inputs = [group["input_activations"] for group in groups if isinstance(group.get("input_activations"), dict)]
    if inputs:
        form = f"{inputs[0].get('type', 'int')}{inputs[0].get('num_bits', '')}"[:20]
        yield f"the quantised model rounds activations to {form}; the output does not"
    if config.get("kv_cache_scheme"):
        yield "the quantised model rounds its KV cache; the output does not"


def _is_block(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(size) is int and size > 0 for size in value)


def _weight(module: Module, bits: set[int], stated: list[int] | None, dtype: str) -> QuantisedWeight:
    packed = module.get("weight_packed")
    if packed is None:
        return _plain(module, stated, dtype)
    return _integers(module, bits, dtype) if packed.dtype == "I32" else _floats(module, dtype)


def _plain(module: Module, stated: list[int] | None, dtype: str) -> QuantisedWeight:
    """Return a weight stored as int8 or float8."""
    codes = module.need("weight", ("I8", "F8_E4M3"), 2)
    scale = _scale(module, (*FLOATS, *EXPONENTS))
    block = block_of(module, "weight_scale", codes.shape, scale.shape, stated)
    zero = module.get("weight_zero_point")
    if zero is not None and zero.shape != scale.shape:
        raise module.wrong("weight_zero_point", f"has shape {list(zero.shape)}, the scales {list(scale.shape)}")
    zeros = None if zero is None else PlainZeros(zero)
    kind = f"compressed-tensors {'int8' if codes.dtype == 'I8' else 'float8'}, {_words(codes.shape, block)}"
    scales, order = PlainValues(scale), _order(module, codes.shape)
    return Scaled(codes.shape, dtype, codes.file, codes.offset, kind, PlainCodes(codes), scales, block, zeros, order)


@dataclass(frozen=True)
class PlainZeros(Values):
    """Zero points stored one by one as int8, or as float8 zeros."""

    tensor: Stored

    def matrix(self) -> torch.Tensor:
        """Return the zero points, with two axes."""
        found = raw(self.tensor).float()
        return found.reshape(*found.shape, *[1] * (2 - found.ndim))


def _integers(module: Module, bits: set[int], dtype: str) -> QuantisedWeight:
    """Return a weight of packed integers."""
    codes, scale = module.need("weight_packed", ("I32",), 2), _scale(module, FLOATS)
    shape = _shape(module, codes)
    fitting = [one for one in bits if math.ceil(shape[1] * one / 32) == codes.shape[1]]
    if len(fitting) != 1:
        raise module.wrong("weight_packed", f"has shape {list(codes.shape)}, the config's bits are {sorted(bits)}")
    width, block = fitting[0], block_of(module, "weight_scale", shape, scale.shape, None)
    zero = module.get("weight_zero_point")
    zeros: Values | None = None if zero is None else PlainZeros(zero)
    if zero is not None and zero.dtype != "I32" and zero.shape != scale.shape:
        raise module.wrong("weight_zero_point", f"has shape {list(zero.shape)}, the scales {list(scale.shape)}")
    if zero is not None and zero.dtype == "I32":
        if len(scale.shape) != 2 or zero.shape != (math.ceil(shape[0] * width / 32), scale.shape[1]):
            raise module.wrong("weight_zero_point", f"has shape {list(zero.shape)}, the scales {list(scale.shape)}")
        zeros = PackedZeroPoints(zero, width, shape[0])
    kind = f"compressed-tensors int{width}, packed, {_words(shape, block)}"
    packed, scales, order = PackedCodes(codes, width, shape[1]), PlainValues(scale), _order(module, shape)
    return Scaled(shape, dtype, codes.file, codes.offset, kind, packed, scales, block, zeros, order)


def _floats(module: Module, dtype: str) -> QuantisedWeight:
    """Return a weight of packed 4-bit floats: MXFP4 with exponents as scales, NVFP4 with float8 and a global scale."""
    codes, scale = module.need("weight_packed", ("U8",), 2), _scale(module, (*EXPONENTS, "F8_E4M3"))
    shape = (codes.shape[0], codes.shape[1] * 2)
    block = block_of(module, "weight_scale", shape, scale.shape, None)
    whole = module.need("weight_global_scale", FLOATS, 1) if scale.dtype == "F8_E4M3" else None
    if whole is not None and whole.shape != (1,):
        raise module.wrong("weight_global_scale", f"has shape {list(whole.shape)}, it must be one number")
    kind = f"compressed-tensors {'MXFP4' if whole is None else 'NVFP4'}, {_words(shape, block)}"
    scales = PlainValues(scale, whole)
    return Scaled(shape, dtype, codes.file, codes.offset, kind, Fp4Codes(codes), scales, block)


def _scale(module: Module, dtypes: tuple[str, ...]) -> Stored:
    found = module.get("weight_scale")
    assert found is not None
    return module.need("weight_scale", dtypes, len(found.shape))


def _shape(module: Module, codes: Stored) -> tuple[int, int]:
    """Return the shape of a packed weight, which is stored beside it."""
    stored = module.need("weight_shape", ("I64", "I32"), 1)
    found = integers(stored) if stored.shape == (2,) else []
    if len(found) != 2 or found[0] != codes.shape[0] or found[1] < 1:
        raise module.wrong("weight_shape", f"is {found}, the packed codes have shape {list(codes.shape)}")
    return found[0], found[1]


def _order(module: Module, shape: tuple[int, ...]) -> Stored | None:
    """Return the group of each column, which old versions store for activation order; None if columns are in order."""
    found = module.get("weight_g_idx")
    if found is None:
        return None
    if found.dtype not in ("I32", "I64") or found.shape != shape[1:]:
        raise module.wrong("weight_g_idx", f"has shape {list(found.shape)}, the weight {list(shape)}")
    return None if {*integers(found)} == {-1} else found  # -1 everywhere: not used


def _words(shape: tuple[int, ...], block: tuple[int, int]) -> str:
    """Return which elements share a scale, in words."""
    if block == tuple(shape):
        return "one scale"
    if block == (1, shape[1]):
        return "a scale per row"
    return f"groups of {block[1]}" if block[0] == 1 else f"blocks of {block[0]}x{block[1]}"
