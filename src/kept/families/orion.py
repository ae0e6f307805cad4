"""Orion: Llama with LayerNorms with bias, whose epsilon has the misleading key `rms_norm_eps`."""

from __future__ import annotations

from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import PUBLISHED_SCALINGS, WIDTH_OVER_HEADS, Flag, Rotary, SpecialTokens
from kept.families.lengths import published_rule
from kept.families.parts import activation, attention, layer_norms, mlp, sizes, tied_head
from kept.families.paths import ATTENTION_BIASES
from kept.families.table import Family

ORION = Family(
    name="orion",
    architecture="OrionForCausalLM",
    items=(
        *sizes(default_context=4096),
        *attention(head_dim=WIDTH_OVER_HEADS),
        *mlp(activation("silu")),
        *layer_norms("rms_norm_eps"),
        Rotary(scalings=PUBLISHED_SCALINGS),
        Flag("attention_bias", ATTENTION_BIASES),
        tied_head(),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
    stock=False,
    rule=published_rule,
)
