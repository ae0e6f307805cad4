"""GGUF files of the tests' tiny checkpoints."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
from safetensors.torch import load_file

from support.gguf_rules import architecture_of, keys_of, named_tensors

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Made:
    """The contents of a GGUF file: architecture, its keys without prefix, tensors, and other keys."""

    architecture: str
    keys: dict[str, Any]
    tensors: dict[str, Array]
    others: dict[str, Any] = field(default_factory=dict)


def made_of(directory: Path, family: str) -> Made:
    """Return the contents of the GGUF file that the converter makes from a checkpoint."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    stored = {name: tensor.float().numpy() for name, tensor in load_file(directory / "model.safetensors").items()}
    architecture = architecture_of(family)
    tensors = dict(named_tensors(architecture, config, stored))
    return Made(architecture, dict(keys_of(architecture, config)), tensors)


def write(
    file: Path, made: Made, kinds: Callable[[str, Array], gguf.GGMLQuantizationType | None] | None = None
) -> Path:
    """Write a GGUF file; `kinds` returns the quantisation type of a tensor, None for float32."""
    writer = gguf.GGUFWriter(file, made.architecture)
    for key, value in {**{f"{made.architecture}.{k}": v for k, v in made.keys.items()}, **made.others}.items():
        _add(writer, key, value)
    for name, tensor in made.tensors.items():
        kind = kinds(name, tensor) if kinds is not None else None
        data = np.ascontiguousarray(tensor, dtype=np.float32)
        writer.add_tensor(name, data if kind is None else gguf.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def with_tokenizer(file: Path, vocabulary: Mapping[str, Any], **keys: Any) -> Path:
    """Write a GGUF file of one layer with a tokenizer."""
    size, width = len(vocabulary["tokenizer.ggml.tokens"]), 8
    shapes = {
        "token_embd.weight": (size, width),
        "output_norm.weight": (width,),
        **{f"blk.0.{norm}_norm.weight": (width,) for norm in ("attn", "ffn")},
        **{f"blk.0.attn_{part}.weight": (width, width) for part in ("q", "k", "v", "output")},
        **{f"blk.0.ffn_{part}.weight": (width, width) for part in ("gate", "up", "down")},
    }
    sizes = {
        "block_count": 1,
        "context_length": 512,
        "embedding_length": width,
        "feed_forward_length": width,
        "attention.head_count": 2,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "vocab_size": size,
    }
    random = np.random.default_rng(0)
    tensors = {name: random.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    named = {f"tokenizer.{key.replace('__', '.')}": value for key, value in keys.items()}
    return write(file, Made("llama", sizes, tensors, {**vocabulary, **named}))
