"""Granite: Llama with multipliers on embeddings, branches and scores, and a divisor of logits."""

from __future__ import annotations

from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import Flag, Number, Power, Rotary, Scale, SpecialTokens
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION_BIASES, LAYER, MLP_BIASES
from kept.families.table import Family

GRANITE = Family(
    name="granite",
    architecture="GraniteForCausalLM",
    items=(
        *sizes(),
        *attention(),
        *mlp(activation("silu")),
        *rms_norms(),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        Flag("mlp_bias", MLP_BIASES),
        Number("embedding_multiplier", ("embedding_multiplier",), default=1.0),
        Number("residual_multiplier", (f"{LAYER}residual_multiplier",), default=1.0),
        Scale("attention_multiplier"),
        Power("logits_scaling", "head.multiplier", power=-1.0, default=1.0),
        tied_head(),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)
