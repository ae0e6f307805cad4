"""The rules of llama.cpp's converter for the tests' tiny checkpoints: keys, tensor names, and changes to weights.

Tensor names come from the gguf package's map. The rules follow `conversion/*.py` of llama.cpp and do not use kept's
tables. `compat/gguf_files.py` compares with the converter itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gguf
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    Config = Mapping[str, Any]
    Array = np.ndarray[Any, Any]

FAMILIES = {
    "cohere": "command-r",
    "gpt_neox": "gptneox",
    "mistral": "llama",
    "phi": "phi2",
}
"""llama.cpp's architecture names that differ from the family's."""

LAYER_NORMS = {"command-r", "falcon", "gpt2", "gptneox", "nemotron", "olmo", "orion", "phi2", "stablelm", "starcoder2"}

NEIGHBOURS = {"llama", "deci", "granite", "smollm3", "olmo", "minicpm", "xverse", "internlm2", "baichuan"}
"""Architectures with interleaved RoPE pairs: the converter permutes their query and key rows."""


def architecture_of(family: str) -> str:
    """Return llama.cpp's name of a family's architecture."""
    return FAMILIES.get(family, family)


def _first(config: Config, *names: str) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def keys_of(architecture: str, config: Config) -> Iterator[tuple[str, Any]]:
    width = _first(config, "hidden_size", "n_embd")
    heads = _first(config, "num_attention_heads", "n_head")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    yield "block_count", _first(config, "num_hidden_layers", "n_layer", "num_layers")
    yield "context_length", _first(config, "seq_length", "max_position_embeddings", "n_positions")
    yield "embedding_length", width
    yield "feed_forward_length", _first(config, "ffn_hidden_size", "intermediate_size", "n_inner") or 4 * width
    yield "attention.head_count", heads
    if architecture != "gpt2":
        kv = _first(config, "num_key_value_heads_per_layer", "num_kv_heads", "num_key_value_heads") or heads
        yield "attention.head_count_kv", 1 if config.get("new_decoder_architecture") is False else kv
        theta = _first(config, "rope_theta", "rotary_emb_base") or rope.get("rope_theta")
        yield "rope.freq_base", float(theta or 10000.0)
        yield "rope.dimension_count", int(_partial(architecture, rope) * (config.get("head_dim") or width // heads))
    if config.get("head_dim") is not None:
        yield "attention.key_length", config["head_dim"]
        yield "attention.value_length", config["head_dim"]
    eps = _first(config, "rms_norm_eps", "layer_norm_eps", "norm_eps", "norm_epsilon", "layer_norm_epsilon")
    yield f"attention.layer_norm_{'' if architecture in LAYER_NORMS else 'rms_'}epsilon", float(eps or 1e-5)
    yield from _scaling(rope)
    yield from OWN.get(architecture, lambda _: {})(config).items()


def _partial(architecture: str, rope: Mapping[str, Any]) -> float:
    usual = {"gptneox": 0.25, "stablelm": 0.25, "phi2": 0.5, "nemotron": 0.5}.get(architecture, 1.0)
    return rope.get("partial_rotary_factor", usual)


def _scaling(rope: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    kind = rope.get("rope_type", rope.get("type"))
    if kind in {"linear", "yarn"}:
        yield "rope.scaling.type", kind
        yield "rope.scaling.factor", float(rope["factor"])
    if kind == "yarn":
        yield "rope.scaling.original_context_length", rope["original_max_position_embeddings"]


def _minicpm(config: Config) -> dict[str, Any]:
    return {
        "embedding_scale": float(config["scale_emb"]),
        "residual_scale": config["scale_depth"] / config["num_hidden_layers"] ** 0.5,
        "logit_scale": config["hidden_size"] / config["dim_model_base"],
    }


OWN: Mapping[str, Callable[[Config], dict[str, Any]]] = {
    "command-r": lambda config: {"logit_scale": float(config["logit_scale"]), "rope.scaling.type": "none"},
    "gemma2": lambda config: {
        "attn_logit_softcapping": float(config["attn_logit_softcapping"]),
        "final_logit_softcapping": float(config["final_logit_softcapping"]),
        "attention.sliding_window": config["sliding_window"],
    },
    "gptneox": lambda config: {"use_parallel_residual": config.get("use_parallel_residual", True)},
    "stablelm": lambda config: {"use_parallel_residual": config["use_parallel_residual"]},
    "granite": lambda config: {
        "attention.scale": config["attention_multiplier"],
        "embedding_scale": config["embedding_multiplier"],
        "residual_scale": config["residual_multiplier"],
        "logit_scale": config["logits_scaling"],
    },
    "minicpm": _minicpm,
    "phi3": lambda config: {
        "rope.scaling.original_context_length": config["original_max_position_embeddings"],
        "attention.sliding_window": config.get("sliding_window") or 0,
    },
}
"""Keys of a single architecture, by its name."""


def named_tensors(architecture: str, config: Config, stored: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    depth = _first(config, "num_hidden_layers", "n_layer", "num_layers")
    kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
    names = gguf.get_tensor_name_map(kinds[architecture], depth)
    for name, tensor in _changed(architecture, config, _stacked(stored)):
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        yield found or name, tensor


def _stacked(stored: Mapping[str, Array]) -> dict[str, Array]:
    """Stack StableLM's per-head norms into one tensor."""
    out: dict[str, list[Array]] = {}
    for name in sorted(stored, key=lambda name: [int(p) if p.isdigit() else -1 for p in name.split(".")]):
        whole = name[: name.index(".norms.")] + ".weight" if ".norms." in name else name
        out.setdefault(whole, []).append(stored[name])
    return {name: np.stack(parts) if len(parts) > 1 else parts[0] for name, parts in out.items()}


def _changed(architecture: str, config: Config, stored: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    heads = _first(config, "num_attention_heads", "n_head")
    per_layer = config.get("num_key_value_heads_per_layer")
    for name, given in stored.items():
        layer = next((int(part) for part in name.split(".") if part.isdigit()), 0)
        kv = per_layer[layer] if per_layer else _first(config, "num_kv_heads", "num_key_value_heads") or heads
        kv = 1 if config.get("new_decoder_architecture") is False else kv
        tensor = given
        if architecture in {"gemma", "gemma2", "nemotron"} and name.endswith("norm.weight"):
            tensor = given + 1
        if architecture == "gpt2" and name.endswith((".c_attn.weight", ".c_proj.weight", ".c_fc.weight")):
            tensor = given.T
        if "query_key_value" in name:
            yield name, _ungrouped(given, heads, kv)
            continue
        if "wqkv" in name or "W_pack" in name:
            yield from _apart(layer, given, heads, kv, grouped="wqkv" in name)
            continue
        if architecture in NEIGHBOURS and ("q_proj" in name or "k_proj" in name):
            tensor = _permuted(given, heads if "q_proj" in name else kv)
        yield name, tensor


def _permuted(weights: Array, heads: int) -> Array:
    size = len(weights) // heads // 2
    return weights.reshape(heads, 2, size, *weights.shape[1:]).swapaxes(1, 2).reshape(weights.shape)


def _ungrouped(weights: Array, heads: int, kv: int) -> Array:
    """Reorder grouped rows to all queries, all keys, all values."""
    groups = weights.reshape(kv, heads // kv + 2, -1, *weights.shape[1:])
    parts = groups[:, :-2], groups[:, -2], groups[:, -1]
    return np.concatenate([part.reshape(-1, *weights.shape[1:]) for part in parts])


def _apart(layer: int, weights: Array, heads: int, kv: int, *, grouped: bool) -> Iterator[tuple[str, Array]]:
    """Split fused projections; yield them with permuted query and key rows."""
    whole = _ungrouped(weights, heads, kv) if grouped else weights
    size = len(whole) // (heads + 2 * kv)
    q, k, v = np.split(whole, [heads * size, (heads + kv) * size])
    yield f"blk.{layer}.attn_q.weight", _permuted(q, heads)
    yield f"blk.{layer}.attn_k.weight", _permuted(k, kv)
    yield f"blk.{layer}.attn_v.weight", v
