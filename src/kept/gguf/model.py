"""Convert a GGUF header to a program: the family's config, and lazy weights in the family's order of rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.families import FAMILIES
from kept.gguf.architectures import ARCHITECTURES, ENTRIES, IGNORED
from kept.gguf.metadata import LARGEST, Metadata
from kept.gguf.rope import scaling
from kept.gguf.tensors import half_split, lazy, less_one
from kept.gguf.vocabulary import special_ids
from kept.ir.tensors import join, take_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.families.table import Family
    from kept.gguf.architectures import Architecture
    from kept.gguf.header import Header
    from kept.ir.program import Program
    from kept.ir.spec import Attention, Spec
    from kept.ir.tensors import Lazy

    Tensors = Mapping[str, Lazy]


@dataclass(frozen=True)
class GgufModel:
    """A GGUF model: its family, config and program, and its tensors under their GGUF names."""

    family: Family
    config: Mapping[str, Any]
    tensors: Tensors
    program: Program


def model(header: Header) -> GgufModel:
    """Return the model of a header. Raises CheckpointError for an unsupported architecture or key."""
    name = header.metadata.get("general.architecture")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise CheckpointError(f"general.architecture is {str(name)[:60]!r}; supported are {known}")
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise CheckpointError(f"general.type is {str(kind)[:60]!r}; only whole models are supported")
    architecture, metadata = ARCHITECTURES[name], Metadata(header.metadata, name)
    family = FAMILIES[architecture.family]
    stored = {tensor: lazy(packed) for tensor, packed in header.tensors.items()}
    config = {**_config(architecture, metadata, stored), "architectures": [family.architecture]}
    metadata.check_read()
    spec = family.read_config(config)
    tensors = _unconverted(architecture, spec, stored)
    own = replace(family, entries=(*architecture.entries, *ENTRIES), ignored=IGNORED)
    return GgufModel(family, config, tensors, own.read(config, tensors))


def _config(architecture: Architecture, metadata: Metadata, tensors: Tensors) -> dict[str, Any]:
    """Return the config.json that a checkpoint of the family would have."""
    names = architecture.names
    embedding = tensors.get("token_embd.weight")
    if embedding is None:
        raise CheckpointError("token_embd.weight: missing")
    metadata.must_be("attention.causal", (True,), "encoders are not supported")
    metadata.must_be("expert_count", (0,), "mixtures of experts are not supported")
    heads = metadata.one_for_all("attention.head_count")
    found: dict[str, Any] = {
        "model_type": architecture.family,
        "vocab_size": embedding.shape[0],
        names.width: metadata.size("embedding_length"),
        names.depth: metadata.size("block_count"),
        names.context: metadata.size("context_length"),
        names.channels: metadata.one_for_all("feed_forward_length"),
        names.heads: heads,
        names.kv_heads: _uniform(metadata.get("attention.head_count_kv")) or heads,
        "tie_word_embeddings": "output.weight" not in tensors,
        **{key: name in tensors for key, name in architecture.flags.items()},
        **special_ids(metadata.keys),
    }
    size = metadata.get("attention.key_length")
    if size is not None:
        found["head_dim"] = metadata.size("attention.key_length")
    metadata.must_be("attention.value_length", (size,), "different sizes of keys and values are not supported")
    found |= _epsilon(architecture, metadata)
    if architecture.rotates:
        found |= _rotation(architecture, metadata, tensors, size or found[names.width] // heads)
    for more in architecture.more:
        found |= more(metadata, tensors)
    return found


def _uniform(sizes: object) -> object:
    """Return the common value of a per-layer list; a list of different values, or a single value, unchanged."""
    if isinstance(sizes, list) and sizes and all(size == sizes[0] for size in sizes):
        return sizes[0]
    return sizes


def _epsilon(architecture: Architecture, metadata: Metadata) -> dict[str, Any]:
    """Return the norms' epsilon. Depending on its version, a converter writes it under one of two keys or both."""
    keys = [f"attention.layer_norm_{kind}epsilon" for kind in ("rms_", "")]
    given = {metadata.number(key) for key in keys if metadata.get(key) is not None}
    if architecture.eps is None:
        return {}
    if len(given) != 1:
        raise metadata.wrong("attention.layer_norm_rms_epsilon", "present, with one epsilon for all norms")
    return {architecture.eps: given.pop()}


def _rotation(architecture: Architecture, metadata: Metadata, tensors: Tensors, head: int) -> dict[str, Any]:
    """Return RoPE's config keys: theta, the rotary fraction of a head, and the scaling."""
    theta, dims = metadata.number("rope.freq_base", 10_000.0), metadata.get("rope.dimension_count") or head
    if not 1 < theta < LARGEST:
        raise metadata.wrong("rope.freq_base", "a number above 1")
    if type(dims) is not int or not 0 < dims <= head or (architecture.partial is None and dims != head):
        raise metadata.wrong("rope.dimension_count", f"{head}, the size of a head")
    found: dict[str, Any] = {architecture.names.theta: theta}
    if architecture.partial is not None:
        fraction = dims / head
        found[architecture.partial] = fraction if int(head * fraction) == dims else math.nextafter(fraction, 1)
    scaled = scaling(metadata, tensors, theta, dims)
    return {**found, "rope_scaling": scaled} if scaled is not None else found


def _unconverted(architecture: Architecture, spec: Spec, stored: Tensors) -> dict[str, Lazy]:
    """Return the tensors with the converter's changes undone, and QKV projections fused or split as in the family."""
    out = dict(stored)
    if architecture.less_one:
        norms = (name for name in stored if name.endswith("norm.weight"))
        out |= {name: less_one(stored[name]) for name in norms}
    for number, layer in enumerate(spec.layers):
        attention = layer.attention
        if attention is None:
            continue
        for kind in ("weight", "bias"):
            parts = [f"blk.{number}.attn_{part}.{kind}" for part in "qkv"]
            whole = f"blk.{number}.attn_qkv.{kind}"
            _split(out, whole, parts, attention, keep=attention.fused and not architecture.pairs)
            if kind in architecture.pairs:
                for name, heads in zip(parts, (attention.heads, attention.kv_heads), strict=False):
                    if name in out:
                        out[name] = _half_split(name, out[name], heads)
            if attention.fused and out.keys() >= {*parts}:
                out[whole] = join([out.pop(name) for name in parts])
    return out


def _split(out: dict[str, Lazy], whole: str, parts: list[str], mixer: Attention, *, keep: bool) -> None:
    """Split a fused QKV tensor into its parts in `out`, unless the family `keep`s it fused."""
    if whole not in out or keep:
        return
    rows = (mixer.heads, mixer.kv_heads, mixer.kv_heads)
    tensor, start = out.pop(whole), 0
    if tensor.shape[0] != sum(rows) * mixer.head_dim:
        raise CheckpointError(f"{whole}: has {tensor.shape[0]} rows, its heads need {sum(rows) * mixer.head_dim}")
    for name, heads in zip(parts, rows, strict=True):
        out[name] = take_rows(tensor, start, start + heads * mixer.head_dim)
        start += heads * mixer.head_dim


def _half_split(name: str, tensor: Lazy, heads: int) -> Lazy:
    try:
        return half_split(tensor, heads)
    except CheckpointError as error:
        raise CheckpointError(f"{name}: {error}") from None
