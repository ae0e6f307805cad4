"""Tiny checkpoints of every family with strong random weights.

A weight near its initial value (gains 1, biases 0) hides mistakes. So every weight is far from it.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM

from support.orphan_tensors import TENSORS
from support.tiny import TINY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from torch import Tensor

LESS_ONE = ("gemma", "gemma2", "gemma3_text", "nemotron")
"""Families that store gains less 1."""


def write_checkpoint(
    directory: Path, family_name: str, *, dtype: torch.dtype = torch.float32, seed: int = 0, **overrides: Any
) -> Path:
    """A tiny random checkpoint on disk; `overrides` change its config. Returns the directory."""
    return write_model(directory, family_name, {**TINY[family_name], **overrides}, dtype=dtype, seed=seed)


def write_model(
    directory: Path,
    family_name: str,
    config: dict[str, Any],
    *,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Path:
    """Write a tiny random checkpoint with the given config; return the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    random = torch.Generator().manual_seed(seed)
    if family_name == "orion":
        _write_named(directory, config, _orion_tensors(config), dtype, random)
    elif family_name in TENSORS:
        _write_named(directory, config, TENSORS[family_name](config), dtype, random)
    else:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family_name, **config))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(strong(name, tuple(parameter.shape), random))
                if family_name in LESS_ONE and "norm" in name and name.endswith("weight"):
                    parameter.sub_(1)
        model.to(dtype).save_pretrained(directory)
    return directory


def strong(name: str, shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    """Random values for a tensor of any family: gains 1±0.3, norm biases 0.3±0.2, and logits that vary by about 2.

    Matrices have a mean, so that what they write to the residual stream has one too.
    """
    noise = torch.randn(shape, generator=random)
    is_norm = "norm" in name or ".ln_" in name
    if name.endswith("bias"):
        return 0.3 + 0.2 * noise if is_norm else 0.3 * noise
    if len(shape) == 1 or is_norm:
        return 1 + 0.3 * noise
    return 1.5 * (noise + 0.1) / math.sqrt(shape[0 if ".c_" in name and "mlp.c" not in name else 1])


def _write_named(
    directory: Path,
    config: dict[str, Any],
    shapes: Iterable[tuple[str, tuple[int, ...]]],
    dtype: torch.dtype,
    random: torch.Generator,
) -> None:
    tensors = {name: strong(name, shape, random).to(dtype) for name, shape in shapes}
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    stated = {**config, "torch_dtype": str(dtype).removeprefix("torch.")}
    (directory / "config.json").write_text(json.dumps(stated, indent=1), encoding="utf-8")


def _orion_tensors(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes from METHODS 1.1: those of Llama, and a bias at each norm."""
    width, size, vocabulary = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    keys = width // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (vocabulary, width)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{at}{norm}.weight", (width,)
            yield f"{at}{norm}.bias", (width,)
        for projection, out in (("q", width), ("k", keys), ("v", keys), ("o", width)):
            yield f"{at}self_attn.{projection}_proj.weight", (out, width)
        yield f"{at}mlp.gate_proj.weight", (size, width)
        yield f"{at}mlp.up_proj.weight", (size, width)
        yield f"{at}mlp.down_proj.weight", (width, size)
    yield "model.norm.weight", (width,)
    yield "model.norm.bias", (width,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (vocabulary, width)


def frequencies(theta: float = 1000.0, dims: int = 16) -> Tensor:
    """Return inv_freq of plain RoPE, as old checkpoints store it; by default that of the tiny Llama."""
    return 1 / theta ** (torch.arange(0, dims, 2) / dims)
