"""Write a program as a GGUF file: llama.cpp's keys, tensor names and order of rows.

The way back from `kept.gguf.model`, for families in llama.cpp's form of Llama. A tensor is read, converted and written
at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

from kept.errors import InputError, Refusal
from kept.families import FAMILIES
from kept.gguf.architectures import ARCHITECTURES, ENTRIES, IGNORED, WRITTEN
from kept.gguf.rope import FREQUENCIES
from kept.ir.frequencies import frequencies, plain
from kept.ir.spec import Linear, Llama3, LongRope, Mlp
from kept.ir.tensors import DerivedTensor, torch_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    import torch

    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.ir.tensors import Lazy, Precision

KINDS = {
    "f32": gguf.GGMLQuantizationType.F32,
    "bf16": gguf.GGMLQuantizationType.BF16,
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
}
"""Types of matrices. Vectors are float32, as llama.cpp computes with them."""

FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}

LARGEST = {"f16": 65504.0, "q8_0": 127 * 65504.0}
"""Largest weights: of float16, and of blocks whose scale is a float16. The other types have the range of float32."""

BLOCK = 32
"""Elements of a block of Q8_0, which a row must be a multiple of."""


@dataclass(frozen=True)
class Interleaved(DerivedTensor):
    """A query or key projection in llama.cpp's order: rows (i, i + half) of a head become (2i, 2i + 1)."""

    heads: int

    @property
    def row_elements(self) -> int:
        """Elements held to compute one row: it may be any of its source's."""
        return self.source.row_elements * self.shape[0]

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Return rows start to stop."""
        whole = self.source.value(precision)
        halves = whole.view(self.heads, 2, self.shape[0] // self.heads // 2, *self.shape[1:])
        return halves.transpose(1, 2).reshape(self.shape)[start:stop]


def architecture_for(family: str, spec: Spec) -> str:
    """Return llama.cpp's architecture of a model. Raises Refusal for one that cannot be written, with the way out."""
    if family not in WRITTEN:
        known = ", ".join(WRITTEN)
        raise Refusal(f"{family}: is not written as GGUF ({known} are)", way_out="kept convert --to llama makes it one")
    name, layers = WRITTEN[family], spec.layers
    if len({layer.attention for layer in layers}) > 1:
        raise Refusal(f"the layers differ in their attention, and {name} of llama.cpp has one for all")
    one = layers[0].attention
    assert one is not None
    if one.window is not None and one.window < spec.context:
        raise Refusal(
            f"the sliding window of {one.window} tokens has no key in {name} of llama.cpp",
            way_out=f"kept convert --to same --context {one.window} makes it without effect",
        )
    if one.rope is not None and not isinstance(one.rope.scaling, Linear | Llama3 | None):
        raise Refusal(f"rope scaling {one.rope.scaling.KIND} is not written as GGUF (linear and llama3 are)")
    return name


def tensors_of(program: Program, family: str) -> dict[str, Lazy]:
    """Return the tensors under llama.cpp's names, in its order of rows."""
    architecture = ARCHITECTURES[WRITTEN[family]]
    own = replace(FAMILIES[architecture.family], entries=(*architecture.entries, *ENTRIES), ignored=IGNORED)
    found = dict(own.write(program))
    one = program.spec.layers[0].attention
    assert one is not None
    for number in range(len(program.spec.layers)):
        for part, heads in (("q", one.heads), ("k", one.kv_heads)):
            for kind in architecture.pairs:
                name = f"blk.{number}.attn_{part}.{kind}"
                if name in found:
                    found[name] = Interleaved(found[name].shape, found[name].dtype, found[name], heads)
    return found


def write_gguf(
    file: Path,
    program: Program,
    family: str,
    kind: str,
    more: Mapping[str, Any],
    progress: Callable[[int], None],
) -> None:
    """Write a GGUF file. `more` are keys of the tokenizer and of the model; `progress` is called with parameters."""
    name = architecture_for(family, program.spec)
    tensors = tensors_of(program, family)
    writer = gguf.GGUFWriter(file, name)
    _add_keys(writer, program.spec)
    writer.add_file_type(FILE_TYPES[kind])
    for key, value in more.items():
        _add(writer, key, value)
    factors = divisors(program.spec)
    if factors is not None:
        writer.add_tensor_info(FREQUENCIES, factors.shape, factors.dtype, factors.nbytes)
    chosen = {tensor: _kind_of(tensor, lazy.shape, kind) for tensor, lazy in tensors.items()}
    for tensor, lazy in tensors.items():
        shape, size = _stored(lazy.shape, chosen[tensor])
        writer.add_tensor_info(tensor, shape, np.dtype(np.uint8), size, raw_dtype=chosen[tensor])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if factors is not None:
        writer.write_tensor_data(factors)
    for tensor, lazy in tensors.items():
        writer.write_tensor_data(_converted(tensor, lazy, chosen[tensor]))
        progress(math.prod(lazy.shape))
    writer.close()


def _kind_of(name: str, shape: tuple[int, ...], kind: str) -> gguf.GGMLQuantizationType:
    if len(shape) < 2:
        return KINDS["f32"]
    if kind == "q8_0" and shape[-1] % BLOCK:
        raise InputError(f"{name}: has rows of {shape[-1]} elements, q8_0 needs a multiple of {BLOCK}; use bf16 or f32")
    return KINDS[kind]


def _stored(shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> tuple[tuple[int, ...], int]:
    """Return the shape in bytes and the size of a tensor in the file."""
    block, size = gguf.GGML_QUANT_SIZES[kind]
    row = shape[-1] // block * size
    stored = (*shape[:-1], row)
    return stored, math.prod(stored)


def _converted(name: str, lazy: Lazy, kind: gguf.GGMLQuantizationType) -> np.ndarray[Any, Any]:
    """Return a tensor's bytes, each row converted from the declared dtype in float32.

    Raises InputError if a weight is beyond the range of the type.
    """
    values = lazy.value().to(torch_dtype(lazy.dtype)).float().contiguous()
    word, largest = kind.name.lower(), float(values.abs().max())
    if not math.isfinite(largest):
        raise InputError(f"{name}: has a weight of {largest:.3g}; kept check names every such tensor")
    if largest > LARGEST.get(word, math.inf):
        raise InputError(f"{name}: has a weight of {largest:.3g}, {word} ends at {LARGEST[word]:.3g}; use bf16 or f32")
    return np.ascontiguousarray(gguf.quants.quantize(values.numpy(), kind)).view(np.uint8)


def _add_keys(writer: gguf.GGUFWriter, spec: Spec) -> None:
    """Add the sizes of the model."""
    layer = spec.layers[0]
    attention, mlp = layer.attention, layer.mlp
    assert attention is not None
    assert isinstance(mlp, Mlp)
    writer.add_vocab_size(spec.vocabulary)
    writer.add_context_length(spec.context)
    writer.add_embedding_length(spec.width)
    writer.add_block_count(len(spec.layers))
    writer.add_feed_forward_length(mlp.size)
    writer.add_head_count(attention.heads)
    writer.add_head_count_kv(attention.kv_heads)
    writer.add_key_length(attention.head_dim)
    writer.add_value_length(attention.head_dim)
    writer.add_layer_norm_rms_eps(spec.final_norm.eps)
    if attention.rope is not None:
        writer.add_rope_dimension_count(attention.rope.dims)
        writer.add_rope_freq_base(attention.rope.theta)
        if isinstance(attention.rope.scaling, Linear):
            writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
            writer.add_rope_scaling_factor(attention.rope.scaling.factor)


def divisors(spec: Spec) -> np.ndarray[Any, Any] | None:
    """Return the divisors of RoPE's frequencies that a file stores, (pairs,); None if it stores none.

    They are those of Llama 3's rule, or of LongRoPE with one list, as which a file reads back if the rule's parameters
    cannot be found from the divisors.
    """
    attention = spec.layers[0].attention
    rope = None if attention is None else attention.rope
    if attention is None or rope is None or not isinstance(rope.scaling, Llama3 | LongRope):
        return None
    if isinstance(rope.scaling, LongRope) and rope.scaling.short_factor != rope.scaling.long_factor:
        return None
    found = zip(plain(rope.theta, rope.dims), frequencies(rope, attention.head_dim), strict=True)
    return np.array([unscaled / scaled for unscaled, scaled in found], dtype=np.float32)


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:  # noqa: ANN401 - any value of the metadata
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)
