"""OLMo: Llama with LayerNorms without gain or bias, whose epsilon no config states."""

from __future__ import annotations

from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import Always, Fixed, Flag, Rotary, SpecialTokens
from kept.families.parts import activation, attention, mlp, sizes, tied_head
from kept.families.paths import ATTENTION_BIASES, NORMS
from kept.families.table import Family
from kept.ir.spec import Norm

OLMO = Family(
    name="olmo",
    architecture="OlmoForCausalLM",
    items=(
        *sizes(),
        *attention(),
        *mlp(activation("silu")),
        Always(tuple((path, Norm("layer", 1e-5, gain=False)) for path in NORMS)),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        Fixed("clip_qkv", value=None, why="clipped queries, keys and values are not supported"),
        tied_head(),
        SpecialTokens(eos=50279, pad=1),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)
