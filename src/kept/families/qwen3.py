"""Qwen3: Llama with an RMSNorm of head size on queries and keys, heads of 128, and windows in the later layers."""

from __future__ import annotations

from kept.families.entries import ROTARY_BUFFERS, attention_entries, llama_entries, qk_norm_entries
from kept.families.items import Flag, LayeredWindow, Rotary, Size, SpecialTokens
from kept.families.parts import activation, attention, mlp, qk_rms_norm, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION, ATTENTION_BIASES
from kept.families.table import Family

QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    items=(
        *sizes(default_context=32768),
        *attention(head_dim=Size("head_dim", f"{ATTENTION}head_dim", default=128)),
        *mlp(activation("silu")),
        *rms_norms(),
        qk_rms_norm("shared"),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        LayeredWindow(),
        tied_head(),
        SpecialTokens(),
    ),
    entries=llama_entries(attention=(*attention_entries(), *qk_norm_entries())),
    ignored=ROTARY_BUFFERS,
)
