"""Mistral: Llama with one sliding window for all layers (or none) and no biases."""

from __future__ import annotations

from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import KeyValueHeads, Rotary, SpecialTokens, Window
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.table import Family

MISTRAL = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    items=(
        *sizes(default_context=4096 * 32),
        *attention(kv_heads=KeyValueHeads(default=8)),
        *mlp(activation("silu")),
        *rms_norms(),
        Rotary(),
        Window(default=4096),
        tied_head(),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)
