"""Configs of tiny models, one for each family."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

VOCABULARY = 97

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rope_theta": 1000.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

EPS = 1e-3
"""Large enough that a forgotten or a default epsilon shows in the logits."""


def without(config: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """The config less some keys."""
    return {k: v for k, v in config.items() if k not in keys}


MINISTRAL3_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 10,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.3,
}

ORION_CONFIG = {
    **SIZES,
    "architectures": ["OrionForCausalLM"],
    "model_type": "orion",
    "hidden_act": "silu",
    "rms_norm_eps": EPS,
    "max_sequence_length": 128,
    "rope_scaling": None,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
}

ORPHAN = {**SIZES, "hidden_act": "silu", "rms_norm_eps": EPS, "tie_word_embeddings": False}
"""Config keys of most families without a stock class."""

WIDE = {**SIZES, "rms_norm_eps": EPS, "head_dim": 16}

LATENT = {
    **SIZES,
    "num_key_value_heads": 4,
    "rms_norm_eps": EPS,
    "kv_lora_rank": 24,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 16,
    "v_head_dim": 10,
    "tie_word_embeddings": False,
    "pad_token_id": None,
}
"""Config of families whose heads do not divide the width by default."""

RMS_NORM = {"kind": "rms", "eps": EPS, "gain": True, "bias": False, "offset": 0.0}

KEPT_LAYER: dict[str, Any] = {
    "repeat": 1,
    "mixer": {
        "kind": "attention",
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "rope": {"theta": 1000.0, "dims": 16, "interleaved": False, "scaling": None},
        **dict.fromkeys(("q_bias", "k_bias", "v_bias", "o_bias", "fused"), False),
        **dict.fromkeys(("qk_norm", "window", "scale", "softcap", "position_scale")),
    },
    "mlp": {
        "kind": "dense",
        "size": 96,
        "activation": "silu",
        "gated": True,
        **dict.fromkeys(("gate_bias", "up_bias", "down_bias", "fused"), False),
    },
    "mixer_norm": RMS_NORM,
    "mlp_norm": RMS_NORM,
    "parallel": False,
    "shared_norm": False,
    "mixer_post_norm": None,
    "mlp_post_norm": None,
    "residual_multiplier": 1.0,
}

KEPT_SPEC = {
    "vocabulary": VOCABULARY,
    "width": 64,
    "context": 128,
    "final_norm": RMS_NORM,
    "head": {"tied": False, "bias": False, "multiplier": 1.0, "softcap": None, "normalised": False},
    "positions": None,
    "tokens": {"bos": 1, "eos": 2, "pad": None},
    "embedding_multiplier": 1.0,
    "centred": False,
    "layers": [KEPT_LAYER, {**KEPT_LAYER, "mixer": {**KEPT_LAYER["mixer"], "window": 7}}, KEPT_LAYER],
}
"""Of our own class: a window in the second layer only, which few stock classes can say."""

TINY: Mapping[str, Mapping[str, Any]] = {
    "arcee": {**SIZES, "rms_norm_eps": EPS},
    "cwm": {
        **WIDE,
        "sliding_window": 7,
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        },
    },
    "ernie4_5": WIDE,
    "gemma3_text": {
        **without(WIDE, "rope_theta"),
        "query_pre_attn_scalar": 20,
        "sliding_window": 7,
        "sliding_window_pattern": 2,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        },
        "pad_token_id": None,
    },
    "deepseek_v2": {**LATENT, "first_k_dense_replace": 3, "n_routed_experts": 4},
    "deepseek_v3": {**LATENT, "first_k_dense_replace": 3, "n_routed_experts": 4, "num_nextn_predict_layers": 0},
    "minicpm3": {**LATENT, "scale_emb": 3.0, "scale_depth": 1.1, "dim_model_base": 96},
    "youtu": LATENT,
    "glm": {**WIDE, "head_dim": 32, "pad_token_id": None},
    "granitemoehybrid": {
        **without(SIZES, "intermediate_size"),
        "rms_norm_eps": EPS,
        "shared_intermediate_size": 96,
        "num_local_experts": 0,
        "layer_types": ["attention"] * 3,
        "position_embedding_type": "rope",
        "mamba_n_heads": 1,
        "time_step_limit": [0.0, 1.0],  # the class cannot read back its default, which is infinite
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.4,
        "logits_scaling": 1.3,
    },
    "helium": {**WIDE, "pad_token_id": None},
    "hyperclovax": {
        **SIZES,
        "rms_norm_eps": EPS,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.4,
        "logits_scaling": 0.7,
        "use_post_norm": False,
    },
    "internlm3": {**WIDE, "pad_token_id": None},
    "iquestcoder": WIDE,
    "jais2": {**SIZES, "layer_norm_eps": EPS},
    "ministral": {**WIDE, "sliding_window": 7},
    "ministral3": {
        **without(WIDE, "rope_theta"),
        "rope_parameters": MINISTRAL3_ROPE,
        "pad_token_id": None,
    },
    "seed_oss": {**WIDE, "pad_token_id": None},
    "cohere": {**SIZES, "layer_norm_eps": EPS, "logit_scale": 0.75},
    "falcon": {
        **without(SIZES, "intermediate_size", "num_key_value_heads"),
        "num_kv_heads": 2,
        "new_decoder_architecture": True,
        "layer_norm_epsilon": EPS,
    },
    "gemma": {**SIZES, "rms_norm_eps": EPS, "head_dim": 16, "pad_token_id": None},
    "aquila": {**ORPHAN, "model_type": "aquila", "pad_token_id": 0},
    "baichuan": {
        **without(ORPHAN, "num_key_value_heads", "rope_theta"),
        "model_type": "baichuan",
        "pad_token_id": 0,
    },
    "deci": {
        **{key: value for key, value in ORPHAN.items() if key != "num_key_value_heads"},
        "model_type": "deci",
        "num_key_value_heads_per_layer": [1, 4, 2],
    },
    "exaone": {
        "model_type": "exaone",
        **{key: value for key, value in SIZES.items() if key != "num_hidden_layers"},
        "num_layers": 3,
        "activation_function": "silu",
        "layer_norm_epsilon": EPS,
        "tie_word_embeddings": False,
    },
    "gemma2": {
        **SIZES,
        "rms_norm_eps": EPS,
        "head_dim": 16,
        "query_pre_attn_scalar": 20,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 4.0,
        "sliding_window": 7,
        "pad_token_id": None,
    },
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 48,
        "n_layer": 3,
        "n_head": 4,
        "n_positions": 128,
        "layer_norm_epsilon": EPS,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "granite": {
        **SIZES,
        "rms_norm_eps": EPS,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "attention_multiplier": 0.4,
        "logits_scaling": 1.3,
    },
    "gpt_neox": {
        **without(SIZES, "num_key_value_heads", "rope_theta"),
        "rotary_emb_base": 1000.0,
        "layer_norm_eps": EPS,
    },
    "internlm": {
        **{key: value for key, value in ORPHAN.items() if key not in {"num_key_value_heads", "rope_theta"}},
        "model_type": "internlm",
        "rotary": {"base": 1000, "type": "dynamic"},
        "pad_token_id": 2,
    },
    "internlm2": {**ORPHAN, "model_type": "internlm2", "bias": False, "pad_token_id": 2},
    "kept": {"spec": KEPT_SPEC, "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False},
    "llama": {**SIZES, "rms_norm_eps": EPS},
    "minicpm": {
        **ORPHAN,
        "model_type": "minicpm",
        "scale_emb": 3,
        "scale_depth": 1.4,
        "dim_model_base": 48,
    },
    "mistral": {**SIZES, "rms_norm_eps": EPS, "sliding_window": None},
    "nemotron": {**SIZES, "norm_eps": EPS},
    "olmo": {**SIZES, "pad_token_id": None},
    "olmo2": {**SIZES, "rms_norm_eps": EPS, "pad_token_id": None},
    "orion": ORION_CONFIG,
    "phi": {**SIZES, "layer_norm_eps": EPS},
    "phi3": {**SIZES, "rms_norm_eps": EPS, "pad_token_id": None},
    "qwen": {
        "model_type": "qwen",
        **{
            key: SIZES[key]
            for key in ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "bos_token_id")
        },
        "eos_token_id": 2,
        "intermediate_size": 192,
        "kv_channels": 16,
        "seq_length": 128,
        "max_position_embeddings": 256,
        "rotary_emb_base": 1000,
        "rotary_pct": 1.0,
        "layer_norm_epsilon": EPS,
        "scale_attn_weights": True,
        "use_dynamic_ntk": True,
        "use_logn_attn": True,
        "no_bias": True,
        "tie_word_embeddings": False,
    },
    "qwen2": {**SIZES, "rms_norm_eps": EPS},
    "qwen3": {**SIZES, "rms_norm_eps": EPS, "head_dim": 16},
    "smollm3": {**SIZES, "rms_norm_eps": EPS, "no_rope_layer_interval": 2, "pad_token_id": None},
    "stablelm": {**SIZES, "layer_norm_eps": EPS},
    "starcoder2": {**SIZES, "norm_epsilon": EPS},
    "xverse": {**ORPHAN, "model_type": "xverse"},
}
"""The config of each family's tiny model; what is not stated is the stock class's default."""
