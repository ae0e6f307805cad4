"""llama.cpp's architectures: their GGUF keys, tensor names, and the changes its converter makes to the weights.

Each architecture is one row of a table. Its GGUF keys become the config of a family, and that family's table reads the
config. Tensor names are the same in every architecture, so one list of names serves all families.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kept.families.entries import Entry, linear, norm, norm_entries
from kept.families.falcon import two_norms
from kept.families.paths import ATTENTION, LAYER, MLP

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from kept.gguf.metadata import Metadata

    More = Callable[[Metadata, Collection[str]], dict[str, Any]]
    """Returns further config keys from the metadata and the tensor names."""

ENTRIES = (
    Entry("embedding.weight", "token_embd.weight"),
    Entry("positions.weight", "position_embd.weight"),
    *norm_entries("blk.{i}.attn_norm", "blk.{i}.ffn_norm"),
    *(entry for part in ("q", "k", "v", "qkv") for entry in linear(f"{ATTENTION}{part}", f"blk.{{i}}.attn_{part}")),
    *norm(f"{ATTENTION}q_norm", "blk.{i}.attn_q_norm"),
    *norm(f"{ATTENTION}k_norm", "blk.{i}.attn_k_norm"),
    *linear(f"{ATTENTION}o", "blk.{i}.attn_output"),
    *norm(f"{LAYER}mixer_post_norm", "blk.{i}.post_attention_norm"),
    *(entry for part in ("gate", "up", "down") for entry in linear(f"{MLP}{part}", f"blk.{{i}}.ffn_{part}")),
    *linear(f"{MLP}gate_up", "blk.{i}.ffn_up"),
    *norm(f"{LAYER}mlp_post_norm", "blk.{i}.post_ffw_norm"),
    *norm("final_norm", "output_norm"),
    *linear("head", "output"),
)
"""Tensor names of every architecture."""

IGNORED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight", "*.attn_rot_embd*")
"""Tensors that are not weights: RoPE frequency factors, which the config holds, and inverse frequencies."""


@dataclass(frozen=True)
class Names:
    """The config keys of a family's sizes and of RoPE's theta."""

    width: str = "hidden_size"
    depth: str = "num_hidden_layers"
    context: str = "max_position_embeddings"
    channels: str = "intermediate_size"
    heads: str = "num_attention_heads"
    kv_heads: str = "num_key_value_heads"
    theta: str = "rope_theta"


@dataclass(frozen=True)
class Architecture:
    """One family as llama.cpp's converter writes it.

    `eps` is the config key of the norms' epsilon. `flags` maps config keys to tensor names; a key is true if the tensor
    is stored. `pairs` lists the parts (weight, bias) of the query and key projections whose rows the converter permuted
    to interleaved rotary pairs (see `HalfSplit`). `less_one` means that the converter added 1 to the norm gains.
    `rotates` is false for learned position embeddings instead of RoPE. `partial` is the config key of the fraction of a
    head that rotates. `more` are functions that return further config keys. `entries` are tensor names of this
    architecture, which take precedence over `ENTRIES`.
    """

    family: str
    eps: str | None = "rms_norm_eps"
    flags: Mapping[str, str] = field(default_factory=dict)
    pairs: tuple[str, ...] = ()
    less_one: bool = False
    names: Names = field(default_factory=Names)
    partial: str | None = None
    rotates: bool = True
    more: tuple[More, ...] = ()
    entries: tuple[Entry, ...] = ()


BOTH = ("weight", "bias")

ATTENTION_FLAG = {"attention_bias": "blk.0.attn_output.bias"}

MLP_FLAG = {"mlp_bias": "blk.0.ffn_down.bias"}
"""Flags that several architectures share."""


def _minicpm(metadata: Metadata, _: Collection[str]) -> dict[str, Any]:
    depth, width = metadata.size("block_count"), metadata.size("embedding_length")
    return {
        "scale_emb": metadata.number("embedding_scale"),
        "scale_depth": _six_digits(metadata.number("residual_scale") * math.sqrt(depth)),
        "dim_model_base": _six_digits(width / (metadata.number("logit_scale") or math.inf)),
    }


def _six_digits(value: float) -> float:
    """Return a number rounded to six significant digits, the precision of a product of float32 values."""
    return float(f"{value:.6g}")


def _granite(metadata: Metadata, _: Collection[str]) -> dict[str, Any]:
    names = {
        "attention_multiplier": "attention.scale",
        "embedding_multiplier": "embedding_scale",
        "residual_multiplier": "residual_scale",
        "logits_scaling": "logit_scale",
    }
    found = {key: metadata.get(name) for key, name in names.items()}
    return {key: value for key, value in found.items() if value is not None}


def _gemma2(metadata: Metadata, _: Collection[str]) -> dict[str, Any]:
    # The attention scale is not stored. llama.cpp recognises the 27B model, which has another one, by its 46 layers.
    is_27b = metadata.size("block_count") == 46
    width, heads = metadata.size("embedding_length"), metadata.size("attention.head_count")
    return {
        "query_pre_attn_scalar": width // heads if is_27b else metadata.size("attention.key_length"),
        "attn_logit_softcapping": metadata.get("attn_logit_softcapping"),
        "final_logit_softcapping": metadata.get("final_logit_softcapping"),
        "sliding_window": metadata.size("attention.sliding_window"),
    }


def _parallel(metadata: Metadata, _: Collection[str]) -> dict[str, Any]:
    return {"use_parallel_residual": metadata.flag("use_parallel_residual", default=True)}


def _phi3(metadata: Metadata, _: Collection[str]) -> dict[str, Any]:
    original = metadata.get("rope.scaling.original_context_length") or metadata.size("context_length")
    return {
        "sliding_window": metadata.get("attention.sliding_window") or None,
        "original_max_position_embeddings": original,
    }


def _falcon(metadata: Metadata, names: Collection[str]) -> dict[str, Any]:
    kv_heads, norms = metadata.get("attention.head_count_kv") or 1, 1 + ("blk.0.attn_norm_2.weight" in names)
    new = kv_heads != 1 or norms > 1
    found: dict[str, Any] = {"new_decoder_architecture": new, "multi_query": True, "parallel_attn": True}
    if new:
        found |= {"num_kv_heads": kv_heads, "num_ln_in_parallel_attn": norms}
    return found


def _cohere(metadata: Metadata, _: Collection[str]) -> dict[str, Any]:
    return {"logit_scale": metadata.number("logit_scale")}


def _olmo(metadata: Metadata, _: Collection[str]) -> dict[str, Any]:
    return {"clip_qkv": metadata.get("attention.clamp_kqv") or None}


def _deci(metadata: Metadata, _: Collection[str]) -> dict[str, Any]:
    heads = metadata.get("attention.head_count_kv")
    return {
        "num_key_value_heads_per_layer": heads if isinstance(heads, list) else [heads] * metadata.size("block_count")
    }


def _qwen(metadata: Metadata, names: Collection[str]) -> dict[str, Any]:
    heads = metadata.size("attention.head_count")
    return {
        "kv_channels": metadata.size("embedding_length") // heads,
        "no_bias": "blk.0.attn_output.bias" not in names,
    }


def _xverse(metadata: Metadata, _: Collection[str]) -> dict[str, Any]:
    why = "llama.cpp's converter permutes the keys of grouped-query attention wrongly; use the original checkpoint"
    metadata.must_be("attention.head_count_kv", (metadata.size("attention.head_count"),), why)
    return {}


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", flags={**ATTENTION_FLAG, **MLP_FLAG}, pairs=BOTH),
    "baichuan": Architecture("baichuan", pairs=("weight",)),
    "command-r": Architecture(
        "cohere",
        eps="layer_norm_eps",
        flags={**ATTENTION_FLAG, "use_qk_norm": "blk.0.attn_q_norm.weight"},
        more=(_cohere,),
    ),
    "deci": Architecture("deci", flags=ATTENTION_FLAG, pairs=BOTH, more=(_deci,)),
    "exaone": Architecture("exaone", eps="layer_norm_epsilon", names=Names(depth="num_layers")),
    "falcon": Architecture(
        "falcon",
        eps="layer_norm_epsilon",
        flags={"bias": "blk.0.attn_qkv.bias"},
        names=Names(channels="ffn_hidden_size"),
        more=(_falcon,),
        entries=(
            *norm(f"{LAYER}mixer_norm", "blk.{i}.attn_norm_2", when=two_norms),
            *norm(f"{LAYER}mlp_norm", "blk.{i}.attn_norm"),
        ),
    ),
    "gemma": Architecture("gemma", less_one=True),
    "gemma2": Architecture("gemma2", less_one=True, more=(_gemma2,)),
    "gpt2": Architecture(
        "gpt2",
        eps="layer_norm_epsilon",
        names=Names("n_embd", "n_layer", "n_positions", "n_inner", "n_head"),
        rotates=False,
    ),
    "gptneox": Architecture(
        "gpt_neox",
        eps="layer_norm_eps",
        flags={"attention_bias": "blk.0.attn_qkv.bias"},
        names=Names(theta="rotary_emb_base"),
        partial="rotary_pct",
        more=(_parallel,),
    ),
    "granite": Architecture("granite", flags={**ATTENTION_FLAG, **MLP_FLAG}, pairs=BOTH, more=(_granite,)),
    "internlm2": Architecture("internlm2", flags={"bias": "blk.0.attn_output.bias"}, pairs=BOTH),
    "minicpm": Architecture("minicpm", flags=ATTENTION_FLAG, pairs=("weight",), more=(_minicpm,)),
    "nemotron": Architecture(
        "nemotron", eps="norm_eps", flags={**ATTENTION_FLAG, **MLP_FLAG}, less_one=True, partial="partial_rotary_factor"
    ),
    "olmo": Architecture("olmo", eps=None, flags=ATTENTION_FLAG, pairs=("weight",), more=(_olmo,)),
    "olmo2": Architecture("olmo2", flags=ATTENTION_FLAG),
    "orion": Architecture("orion", flags=ATTENTION_FLAG),
    "phi2": Architecture("phi", eps="layer_norm_eps", partial="partial_rotary_factor"),
    "phi3": Architecture("phi3", partial="partial_rotary_factor", more=(_phi3,)),
    "qwen": Architecture(
        "qwen",
        eps="layer_norm_epsilon",
        names=Names(context="seq_length", theta="rotary_emb_base"),
        more=(_qwen,),
    ),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3", flags=ATTENTION_FLAG),
    "smollm3": Architecture("smollm3", flags={**ATTENTION_FLAG, **MLP_FLAG}, pairs=BOTH),
    "stablelm": Architecture(
        "stablelm",
        eps="layer_norm_eps",
        flags={"use_qkv_bias": "blk.0.attn_q.bias", "qk_layernorm": "blk.0.attn_q_norm.weight"},
        partial="partial_rotary_factor",
        more=(_parallel,),
    ),
    "starcoder2": Architecture("starcoder2", eps="norm_epsilon", flags={"use_bias": "blk.0.attn_output.bias"}),
    "xverse": Architecture("xverse", pairs=("weight",), more=(_xverse,)),
}
"""The supported architectures, by llama.cpp's name."""

WRITTEN = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""llama.cpp's architecture of each family that is written as GGUF."""
