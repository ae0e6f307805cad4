"""Llama under other names: families that differ in biases, defaults, the rotated part of a head or the MLP's gate."""

from __future__ import annotations

from kept.families.entries import FEED_FORWARD, ROTARY_BUFFERS, linear, llama_entries
from kept.families.items import HEADS_OF_128, Fixed, Flag, KeyValueHeads, Rotary, Size, SpecialTokens
from kept.families.parts import activation, attention, layer_norms, mlp, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION, ATTENTION_BIASES, MLP, MLP_BIASES, PLAIN_MLP_BIASES, QKV_BIASES
from kept.families.table import Family

ARCEE = Family(
    name="arcee",
    architecture="ArceeForCausalLM",
    items=(
        *sizes(default_context=4096),
        *attention(),
        *mlp(activation("relu2"), gated=False),
        *rms_norms(default=1e-5),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        Flag("mlp_bias", PLAIN_MLP_BIASES),
        tied_head(),
        SpecialTokens(bos=128000, eos=128001),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)

JAIS2 = Family(
    name="jais2",
    architecture="Jais2ForCausalLM",
    items=(
        *sizes(default_context=8192),
        *attention(),
        *mlp(activation("relu2"), gated=False),
        *layer_norms("layer_norm_eps"),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES, default=True),
        Flag("mlp_bias", PLAIN_MLP_BIASES, default=True),
        tied_head(),
        SpecialTokens(bos=0, eos=150024),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)

SEED_OSS = Family(
    name="seed_oss",
    architecture="SeedOssForCausalLM",
    items=(
        *sizes(default_context=524288),
        *attention(kv_heads=KeyValueHeads(default=8), head_dim=HEADS_OF_128),
        *mlp(activation("silu")),
        *rms_norms(),
        Rotary(),
        Flag("attention_bias", QKV_BIASES, default=True),
        Flag("attention_out_bias", (f"{ATTENTION}o_bias",)),
        Flag("mlp_bias", MLP_BIASES),
        tied_head(),
        SpecialTokens(bos=0, eos=2, pad=1),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)

INTERNLM3 = Family(
    name="internlm3",
    architecture="InternLM3ForCausalLM",
    items=(
        *sizes(default_context=32768),
        *attention(kv_heads=KeyValueHeads(default=2), head_dim=HEADS_OF_128),
        *mlp(activation("silu")),
        *rms_norms(default=1e-5),
        Rotary(),
        Flag("qkv_bias", QKV_BIASES),
        Flag("bias", (f"{ATTENTION}o_bias", *MLP_BIASES)),
        tied_head(),
        SpecialTokens(bos=1, eos=2, pad=2),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
    also=("LlamaForCausalLM",),
    aliases={"attention_bias": "qkv_bias", "mlp_bias": "bias"},
)
"""transformers runs it as a Llama, and requires that both flags are equal."""

IQUESTCODER = Family(
    name="iquestcoder",
    architecture="IQuestCoderForCausalLM",
    items=(
        *sizes(default_context=131072),
        *attention(kv_heads=KeyValueHeads(default=8), head_dim=HEADS_OF_128),
        *mlp(activation("silu")),
        *rms_norms(default=1e-5),
        Rotary(),
        Fixed("clip_qkv", value=None, why="clipped queries, keys and values are not supported"),
        Fixed("use_sliding_window", value=False, why="sliding windows are not supported"),
        Flag("attention_bias", ATTENTION_BIASES),
        Flag("mlp_bias", MLP_BIASES),
        tied_head(),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
    also=("LlamaForCausalLM",),
)
"""transformers runs it as a Llama."""

ERNIE4_5 = Family(
    name="ernie4_5",
    architecture="Ernie4_5ForCausalLM",
    items=(
        *sizes(default_context=131072),
        *attention(kv_heads=KeyValueHeads(default=2), head_dim=HEADS_OF_128),
        *mlp(activation("silu")),
        *rms_norms(default=1e-5),
        Rotary(theta=500_000.0, interleaved=True),
        Flag("use_bias", (*ATTENTION_BIASES, *MLP_BIASES)),
        tied_head(default=True),
        SpecialTokens(bos=1, eos=2, pad=0),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)

HELIUM = Family(
    name="helium",
    architecture="HeliumForCausalLM",
    items=(
        *sizes(default_context=4096),
        *attention(kv_heads=KeyValueHeads(default=20), head_dim=Size("head_dim", f"{ATTENTION}head_dim", default=128)),
        *mlp(activation("silu")),
        *rms_norms(default=1e-8),
        Rotary(theta=100_000.0, interleaved=True),
        Flag("attention_bias", QKV_BIASES),
        Flag("mlp_bias", MLP_BIASES),
        tied_head(),
        SpecialTokens(bos=1, eos=2, pad=3),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)

GLM = Family(
    name="glm",
    architecture="GlmForCausalLM",
    items=(
        *sizes(default_context=131072),
        *attention(kv_heads=KeyValueHeads(default=2), head_dim=HEADS_OF_128),
        *mlp(activation("silu"), fused=True),
        *rms_norms(default=1.5625e-7),
        Rotary(partial=0.5, reads_partial=True, interleaved=True),
        Flag("attention_bias", QKV_BIASES, default=True),
        tied_head(),
        SpecialTokens(eos=(151329, 151336, 151338), pad=151329),
    ),
    entries=llama_entries(
        mlp=(
            *linear(f"{MLP}gate_up", f"{FEED_FORWARD}.gate_up_proj"),
            *linear(f"{MLP}down", f"{FEED_FORWARD}.down_proj"),
        )
    ),
    ignored=ROTARY_BUFFERS,
)
"""GLM-4-9B and GLM-Edge; the first half of each head rotates, in neighbouring pairs."""
