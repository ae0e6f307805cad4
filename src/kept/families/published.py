"""Config keys of families that have no class in transformers, only remote code.

Their code ships with the checkpoint, so one release may read a key that another ignores. A key that no item reads and
no list below contains is reported in a note; if it changes the function of another family, it is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.families.config import Config

LLAMA_2023 = ("pretraining_tp", "attention_dropout")
"""Keys of the 2023 Llama code, which most of these families derive from: tensor-parallel slices and dropout."""

WITHOUT_EFFECT: dict[str, tuple[str, ...]] = {
    "aquila": LLAMA_2023,
    "baichuan": (
        "gradient_checkpointing",
        "model_max_length",
        "num_key_value_heads",
        "pretraining_tp",
        "z_loss_weight",
    ),
    "deci": (
        *LLAMA_2023,
        "naive_attention_decode_batched",
        "naive_attention_decode_single",
        "naive_attention_prefill",
        "num_key_value_heads",
    ),
    "exaone": ("attention_dropout", "embed_dropout", "pretraining_tp", "resid_dropout"),
    "internlm": ("num_key_value_heads", "pretraining_tp"),
    "internlm2": LLAMA_2023,
    "minicpm": ("attention_dropout", "mup_denominator", "num_experts_per_tok"),
    "orion": (*LLAMA_2023, "max_sequence_length"),
    "qwen": (
        "activation",
        "attn_dropout_prob",
        "attn_pdrop",
        "bf16",
        "bias_dropout_fusion",
        "emb_dropout_prob",
        "embd_pdrop",
        "fp16",
        "fp32",
        "max_position_embeddings",
        "n_inner",
        "n_positions",
        "num_key_value_heads",
        "onnx_safe",
        "padded_vocab_size",
        "params_dtype",
        "pretraining_tp",
        "resid_pdrop",
        "softmax_in_fp32",
        "tokenizer_type",
        "use_cache_kernel",
        "use_dynamic_ntk",
        "use_flash_attn",
        "use_logn_attn",
    ),
    "xverse": (*LLAMA_2023, "initializer_weight", "max_tokenizer_truncation", "num_experts_per_tok"),
}
"""Keys of each family's code that change no logit within the context.

Qwen's `use_dynamic_ntk` and `use_logn_attn` act beyond the context only, which its length rule states.
"""

ANYWHERE = {
    "architectures",
    "attn_implementation",
    "auto_map",
    "bad_words_ids",
    "begin_suppress_tokens",
    "chunk_size_feed_forward",
    "decoder_start_token_id",
    "diversity_penalty",
    "do_sample",
    "dtype",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "gradient_checkpointing",
    "id2label",
    "initializer_range",
    "label2id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "model_type",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_labels",
    "num_return_sequences",
    "output_attentions",
    "output_hidden_states",
    "output_scores",
    "prefix",
    "problem_type",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "transformers_weights",
    "typical_p",
    "unk_token_id",
    "use_bfloat16",
    "use_cache",
}
"""Keys that transformers 4 writes into every config, and generation defaults."""

SHAPING = {
    "activation",
    "activation_function",
    "alibi",
    "apply_residual_connection_post_layernorm",
    "attention_bias",
    "attention_multiplier",
    "attention_out_bias",
    "attn_logit_softcapping",
    "bias",
    "block_configs",
    "clip_qkv",
    "dim_model_base",
    "embedding_multiplier",
    "ffn_hidden_size",
    "final_logit_softcapping",
    "first_k_dense_replace",
    "head_dim",
    "hidden_act",
    "hidden_activation",
    "intermediate_size",
    "kv_channels",
    "kv_lora_rank",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "layers_block_type",
    "logit_scale",
    "logits_scaling",
    "max_window_layers",
    "mlp_bias",
    "moe_intermediate_size",
    "multi_query",
    "n_embd",
    "n_embed",
    "n_head",
    "n_inner",
    "n_layer",
    "n_positions",
    "n_routed_experts",
    "new_decoder_architecture",
    "no_bias",
    "no_rope_layer_interval",
    "no_rope_layers",
    "norm_eps",
    "norm_epsilon",
    "num_experts",
    "num_key_value_heads",
    "num_key_value_heads_per_layer",
    "num_kv_heads",
    "num_layers",
    "num_ln_in_parallel_attn",
    "num_local_experts",
    "original_max_position_embeddings",
    "parallel_attn",
    "partial_rotary_factor",
    "pos_emb",
    "position_embedding_type",
    "q_lora_rank",
    "qk_head_dim",
    "qk_layernorm",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "qkv_bias",
    "quantization_bit",
    "query_pre_attn_scalar",
    "residual_multiplier",
    "rms_norm_eps",
    "rope_interleave",
    "rope_local_base_freq",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rotary",
    "rotary_emb_base",
    "rotary_pct",
    "scale_attn_by_inverse_layer_idx",
    "scale_attn_weights",
    "scale_depth",
    "scale_emb",
    "seq_length",
    "shared_intermediate_size",
    "sliding_window_pattern",
    "sparse_config",
    "spec",
    "use_bias",
    "use_cache_quantization",
    "use_parallel_residual",
    "use_post_norm",
    "use_qk_norm",
    "use_qkv_bias",
    "use_sliding_window",
    "v_head_dim",
    "visual",
}
"""Keys that change the function of some family."""


def unknown(config: Config, family: str) -> Iterator[str]:
    """Yield the keys of a config, sorted, that no item has read and no list of harmless keys contains."""
    harmless = {*ANYWHERE, *WITHOUT_EFFECT.get(family, ())}
    yield from sorted(key for key in config.keys if key not in config.read | harmless and not key.startswith("_"))


def check_unknown(config: Config, family: str) -> None:
    """Raise CheckpointError for an unknown key of this family that changes the function of another family."""
    for key in unknown(config, family):
        if key in SHAPING and config.get(key):
            raise CheckpointError(
                f"{config.where}: {key} is {config.get(key)!r}, a key that the published {family} code does not read; "
                "if the checkpoint's own code does not read it either, remove it"
            )


def unknown_note(config: Config, family: str) -> str | None:
    """Return a one-line note that lists unknown keys; None if there are none."""
    keys = [*unknown(config, family)]
    if not keys:
        return None
    shown = ", ".join(keys[:8]) + (f" and {len(keys) - 8} more" if len(keys) > 8 else "")
    return f"{config.where}: ignored keys, not known to change what {family} computes: {shown}"
