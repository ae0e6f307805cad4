"""Granite: Llama with a multiplier on the embedding, on what each part adds, on scores and, as divisor, on logits."""

from __future__ import annotations

from kept.families.items import Flag, Number, Power, Scale, SpecialTokens
from kept.families.llama import (
    ATTENTION_BIASES,
    DECODER,
    ENTRIES,
    GATED,
    HEAD_DIM,
    MLP_BIASES,
    NORM_EPS,
    RMS_NORMS,
    ROTARY_BUFFERS,
)
from kept.families.rotary import Rotary
from kept.families.table import Family, L

GRANITE = Family(
    name="granite",
    architecture="GraniteForCausalLM",
    items=(
        *DECODER,
        HEAD_DIM,
        *GATED,
        RMS_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-6),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        Flag("mlp_bias", MLP_BIASES),
        Number("embedding_multiplier", ("embedding_multiplier",), default=1.0),
        Number("residual_multiplier", (f"{L}residual_multiplier",), default=1.0),
        Scale("attention_multiplier"),
        Power("logits_scaling", "head.multiplier", power=-1.0, default=1.0),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=ENTRIES,
    ignored=ROTARY_BUFFERS,
)
