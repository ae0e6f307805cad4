"""What llama.cpp calls each family and its keys, and what its converter does to the weights, to be undone.

An architecture is a row: GGUF keys become the family's config, and the family's own table reads that. Tensors have the
same names in every architecture, so they are a second list of names for the slots that all families share.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kept.families.table import Entry, linear, norm

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from kept.gguf.metadata import Metadata
    from kept.ir.spec import Spec

    More = Callable[[Metadata, Collection[str]], dict[str, Any]]
    """Config keys that follow from metadata and the names of tensors."""

NORMED, RMS = "attention.layer_norm_epsilon", "attention.layer_norm_rms_epsilon"

ENTRIES = (
    Entry("embedding.weight", "token_embd.weight"),
    Entry("positions.weight", "position_embd.weight"),
    *norm("layers.{i}.mixer_norm", "blk.{i}.attn_norm"),
    *(
        entry
        for part in ("q", "k", "v", "qkv")
        for entry in linear(f"layers.{{i}}.mixer.{part}", f"blk.{{i}}.attn_{part}")
    ),
    *norm("layers.{i}.mixer.q_norm", "blk.{i}.attn_q_norm"),
    *norm("layers.{i}.mixer.k_norm", "blk.{i}.attn_k_norm"),
    *linear("layers.{i}.mixer.o", "blk.{i}.attn_output"),
    *norm("layers.{i}.mixer_post_norm", "blk.{i}.post_attention_norm"),
    *norm("layers.{i}.mlp_norm", "blk.{i}.ffn_norm"),
    *(
        entry
        for part in ("gate", "up", "down")
        for entry in linear(f"layers.{{i}}.mlp.{part}", f"blk.{{i}}.ffn_{part}")
    ),
    *linear("layers.{i}.mlp.gate_up", "blk.{i}.ffn_up"),
    *norm("layers.{i}.mlp_post_norm", "blk.{i}.post_ffw_norm"),
    *norm("final_norm", "output_norm"),
    *linear("head", "output"),
)
"""Tensor names of every architecture."""

IGNORED = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight", "*.attn_rot_embd*")
"""Divisors of frequencies, which the config says, and frequencies, which are computed."""


@dataclass(frozen=True)
class Names:
    """The config keys of a family's sizes."""

    width: str = "hidden_size"
    depth: str = "num_hidden_layers"
    context: str = "max_position_embeddings"
    channels: str = "intermediate_size"
    heads: str = "num_attention_heads"
    kv_heads: str = "num_key_value_heads"
    theta: str = "rope_theta"


@dataclass(frozen=True)
class Architecture:
    """How llama.cpp writes one family.

    `eps` is the config key of the norms' epsilon. `flags` are config keys that are true where a tensor is there.
    `pairs`: rows of queries and keys were moved so that pairs are neighbours (`HalfSplit`), in projections alone or in
    their biases too. `less_one`: 1 was added to gains. `turns` is false for a family that knows positions by a table;
    `partial` names the key of the fraction of a head that turns. `entries` come before those of all.
    """

    family: str
    eps: str | None = "rms_norm_eps"
    flags: Mapping[str, str] = field(default_factory=dict)
    pairs: tuple[str, ...] = ()
    less_one: bool = False
    names: Names = field(default_factory=Names)
    partial: str | None = None
    turns: bool = True
    more: tuple[More, ...] = ()
    entries: tuple[Entry, ...] = ()


BOTH = ("weight", "bias")

ATTENTION = {"attention_bias": "blk.0.attn_output.bias"}

FEED_FORWARD = {"mlp_bias": "blk.0.ffn_down.bias"}


def _minicpm(metadata: Metadata, _: Collection[str]) -> dict[str, Any]:
    depth, width = metadata.size("block_count"), metadata.size("embedding_length")
    return {
        "scale_emb": metadata.number("embedding_scale"),
        "scale_depth": _short(metadata.number("residual_scale") * math.sqrt(depth)),
        "dim_model_base": _short(width / (metadata.number("logit_scale") or math.inf)),
    }


def _short(value: float) -> float:
    """A number to the digits that float32 leaves of a product."""
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
    # The scale of scores is not stored: llama.cpp knows the 27B model, whose scale is its own, by its depth.
    by_width = metadata.size("block_count") == 46
    width, heads = metadata.size("embedding_length"), metadata.size("attention.head_count")
    return {
        "query_pre_attn_scalar": width // heads if by_width else metadata.size("attention.key_length"),
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
    heads, two = metadata.get("attention.head_count_kv") or 1, "blk.0.attn_norm_2.weight" in names
    new = {"num_kv_heads": heads, "num_ln_in_parallel_attn": 1 + two}
    old = heads == 1 and not two
    return {"new_decoder_architecture": not old, "multi_query": True, "parallel_attn": True, **({} if old else new)}


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
    why = "llama.cpp's converter mixes up the keys of shared heads; convert the original checkpoint"
    metadata.must_be("attention.head_count_kv", (metadata.size("attention.head_count"),), why)
    return {}


def two_norms(spec: Spec) -> bool:
    """Whether attention and MLP of a Falcon have a norm each."""
    return any(layer.mlp_norm is not None for layer in spec.layers)


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture("llama", flags={**ATTENTION, **FEED_FORWARD}, pairs=BOTH),
    "baichuan": Architecture("baichuan", pairs=("weight",)),
    "command-r": Architecture(
        "cohere",
        eps="layer_norm_eps",
        flags={**ATTENTION, "use_qk_norm": "blk.0.attn_q_norm.weight"},
        more=(_cohere,),
    ),
    "deci": Architecture("deci", flags=ATTENTION, pairs=BOTH, more=(_deci,)),
    "exaone": Architecture("exaone", eps="layer_norm_epsilon", names=Names(depth="num_layers")),
    "falcon": Architecture(
        "falcon",
        eps="layer_norm_epsilon",
        flags={"bias": "blk.0.attn_qkv.bias"},
        names=Names(channels="ffn_hidden_size"),
        more=(_falcon,),
        entries=(
            *norm("layers.{i}.mixer_norm", "blk.{i}.attn_norm_2", two_norms),
            *norm("layers.{i}.mlp_norm", "blk.{i}.attn_norm"),
        ),
    ),
    "gemma": Architecture("gemma", less_one=True),
    "gemma2": Architecture("gemma2", less_one=True, more=(_gemma2,)),
    "gpt2": Architecture(
        "gpt2",
        eps="layer_norm_epsilon",
        names=Names("n_embd", "n_layer", "n_positions", "n_inner", "n_head"),
        turns=False,
    ),
    "gptneox": Architecture(
        "gpt_neox",
        eps="layer_norm_eps",
        flags={"attention_bias": "blk.0.attn_qkv.bias"},
        names=Names(theta="rotary_emb_base"),
        partial="rotary_pct",
        more=(_parallel,),
    ),
    "granite": Architecture("granite", flags={**ATTENTION, **FEED_FORWARD}, pairs=BOTH, more=(_granite,)),
    "internlm2": Architecture("internlm2", flags={"bias": "blk.0.attn_output.bias"}, pairs=BOTH),
    "minicpm": Architecture("minicpm", flags=ATTENTION, pairs=("weight",), more=(_minicpm,)),
    "nemotron": Architecture(
        "nemotron", eps="norm_eps", flags={**ATTENTION, **FEED_FORWARD}, less_one=True, partial="partial_rotary_factor"
    ),
    "olmo": Architecture("olmo", eps=None, flags=ATTENTION, pairs=("weight",), more=(_olmo,)),
    "olmo2": Architecture("olmo2", flags=ATTENTION),
    "orion": Architecture("orion", flags=ATTENTION),
    "phi2": Architecture("phi", eps="layer_norm_eps", partial="partial_rotary_factor"),
    "phi3": Architecture("phi3", partial="partial_rotary_factor", more=(_phi3,)),
    "qwen": Architecture(
        "qwen",
        eps="layer_norm_epsilon",
        names=Names(context="seq_length", theta="rotary_emb_base"),
        more=(_qwen,),
    ),
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3", flags=ATTENTION),
    "smollm3": Architecture("smollm3", flags={**ATTENTION, **FEED_FORWARD}, pairs=BOTH),
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
"""Every architecture that is read, by llama.cpp's name for it."""
