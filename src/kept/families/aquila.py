"""Aquila and Aquila2: Llama under another name, without biases, and with another default epsilon.

Aquila2's class clips attention scores at ±1,024, and no target's class does: promises are limited to smaller scores.
"""

from __future__ import annotations

from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import PUBLISHED_SCALINGS, WIDTH_OVER_HEADS, Rotary, SpecialTokens
from kept.families.lengths import published_rule
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.table import Family

AQUILA = Family(
    name="aquila",
    architecture="AquilaForCausalLM",
    items=(
        *sizes(),
        *attention(head_dim=WIDTH_OVER_HEADS),
        *mlp(activation("silu")),
        *rms_norms(default=1e-5),
        Rotary(scalings=PUBLISHED_SCALINGS),
        tied_head(),
        SpecialTokens(bos=1, eos=2, pad=0),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
    stock=False,
    rule=published_rule,
    score_limit=1024.0,
)
