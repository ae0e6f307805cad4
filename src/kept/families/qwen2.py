"""Qwen2: Llama with biases on query, key and value only, and windows in the later layers."""

from __future__ import annotations

from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import WIDTH_OVER_HEADS, Always, LayeredWindow, Rotary, SpecialTokens
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.paths import QKV_BIASES
from kept.families.table import Family

QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    items=(
        *sizes(default_context=32768),
        *attention(head_dim=WIDTH_OVER_HEADS),
        *mlp(activation("silu")),
        *rms_norms(),
        Rotary(),
        Always(tuple((path, True) for path in QKV_BIASES)),
        LayeredWindow(),
        tied_head(),
        SpecialTokens(),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)
