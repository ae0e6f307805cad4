"""Aquila and Aquila2: Llama by another name, without biases; an epsilon of its own where the config leaves it out.

Aquila2's class clips attention scores at ±1,024, and no target's class does: promises are limited to smaller scores.
"""

from __future__ import annotations

from kept.families.items import DerivedFact, Flag, Number, SpecialTokens, split_heads
from kept.families.lengths import published_rule
from kept.families.llama import DECODER, ENTRIES, GATED, NORM_EPS, RMS_NORMS, ROTARY_BUFFERS
from kept.families.rotary import PUBLISHED, Rotary
from kept.families.table import ATTENTION, Family

AQUILA = Family(
    name="aquila",
    architecture="AquilaForCausalLM",
    items=(
        *DECODER,
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        *GATED,
        RMS_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-5),
        Rotary(kinds=PUBLISHED),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=1, eos=2, pad=0),
    ),
    entries=ENTRIES,
    ignored=ROTARY_BUFFERS,
    stock=False,
    rule=published_rule,
    score_limit=1024.0,
)
