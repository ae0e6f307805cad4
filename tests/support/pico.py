"""Public configs at pico size: keys that determine the function are kept, sizes are scaled together."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.models import write_model
from support.orphan_tensors import TENSORS
from support.tiny import without

if TYPE_CHECKING:
    from collections.abc import Mapping

    Config = Mapping[str, Any]

PUBLIC: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "families" / "public_configs.json").read_text(encoding="utf-8")
)
"""Keys of public config.json files that determine the function, transcribed by hand, by name on the hub.

`to`: a target that takes the model exactly, within `context` if given, or a pattern of the refusal's message. RoPE
divisors and lists of key-value heads by layer are not the published ones; `pico` generates them.
"""

VOCABULARY, HEAD, SHORT = 97, 16, 16
"""Sizes at pico scale: vocabulary, head dimension, original context of a context extension."""

WIDTH, DEPTH = ("hidden_size", "n_embd"), ("num_hidden_layers", "num_layers", "n_layer")
HEADS, GROUPS = ("num_attention_heads", "n_head"), ("num_key_value_heads", "num_kv_heads")
CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_sequence_length", "model_max_length")
PER_LAYER = "num_key_value_heads_per_layer"


def _key(config: Config, names: tuple[str, ...]) -> str:
    return next(name for name in names if config.get(name) is not None)


def pico(public: Config) -> dict[str, Any]:
    """Return the config scaled to a vocabulary of 97, a head dimension of 16 and two to four layers."""
    config = copy.deepcopy({key: value for key, value in public.items() if key not in {"name", "to", "context"}})
    _scale_heads(config, public)
    depth = _key(config, DEPTH)
    layers = 4 if "no_rope_layer_interval" in config else 2
    if "max_window_layers" in config:
        config["max_window_layers"] = config["max_window_layers"] * layers // public[depth]
    config[depth] = layers
    config["vocab_size"] = VOCABULARY
    _scale_lengths(config, public)
    if (config.get("pad_token_id") or 0) >= VOCABULARY or "pad_token_id" not in config:
        config["pad_token_id"] = None  # stock classes index the embedding with it
    return config


def _scale_heads(config: dict[str, Any], public: Config) -> None:
    width, heads = _key(config, WIDTH), _key(config, HEADS)
    groups = next((name for name in GROUPS if config.get(name) is not None), None)
    count, shared = public[heads], public[groups] if groups else public[heads]
    size = public.get("head_dim", public[width] // count)
    config[heads] = 4
    if groups:
        config[groups] = 4 if shared == count else 1 if shared == 1 else 2
    if PER_LAYER in config:
        config[PER_LAYER] = [4, 1]
    for key in ("head_dim", "kv_channels"):
        if key in config:
            config[key] = HEAD
    if "query_pre_attn_scalar" in config:
        config["query_pre_attn_scalar"] = HEAD * public["query_pre_attn_scalar"] // size
    config[width] = 4 * HEAD * public[width] // (count * size)
    ratio = config[width] / public[width]
    if "dim_model_base" in config:
        config["dim_model_base"] = public["dim_model_base"] * ratio
    if "intermediate_size" in config:
        config["intermediate_size"] = 4 * round(public["intermediate_size"] * ratio / 4)


def scale(public: Config) -> float:
    """Return the factor by which all lengths are scaled."""
    section = public.get("rope_scaling") or {}
    original = section.get("original_max_position_embeddings", public.get("original_max_position_embeddings"))
    lengths = (public[name] for name in (*CONTEXT, "sliding_window") if public.get(name))
    return SHORT / (original or min(lengths, default=2048))


def _scale_lengths(config: dict[str, Any], public: Config) -> None:
    section = config.get("rope_scaling") or {}
    for place in (config, section):
        if "original_max_position_embeddings" in place:
            place["original_max_position_embeddings"] = SHORT
    for key in (*CONTEXT, "sliding_window"):
        if config.get(key) is not None:
            config[key] = max(2, round(public[key] * scale(public)))
    if section.get("type", section.get("rope_type")) in {"longrope", "su"}:
        pairs = int(HEAD * config.get("partial_rotary_factor", 1.0)) // 2
        section["short_factor"] = [1.0 + i / 8 for i in range(pairs)]
        section["long_factor"] = [1.5 + 2 * i for i in range(pairs)]


def write_pico(directory: Path, public: Config) -> Path:
    """Write a checkpoint with strong random weights and the scaled config; return the directory."""
    config = pico(public)
    keys = config if config["model_type"] in TENSORS else without(config, "model_type")
    write_model(directory, config["model_type"], copy.deepcopy(keys))
    (directory / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}), encoding="utf-8")
    return directory
