"""Qwen3: Llama with an RMSNorm of head size on queries and keys, heads of 128, and windows from some layer on."""

from __future__ import annotations

from kept.families.items import Flag, LayeredWindow, Number, Size, SpecialTokens
from kept.families.llama import (
    ATTENTION_BIASES,
    DECODER,
    ENTRIES,
    GATED,
    NORM_EPS,
    QK_NORM_ENTRIES,
    RMS_NORMS,
    ROTARY_BUFFERS,
    qk_rms_norm,
)
from kept.families.rotary import Rotary
from kept.families.table import ATTENTION, Family

QWEN3 = Family(
    name="qwen3",
    architecture="Qwen3ForCausalLM",
    items=(
        *DECODER[:3],
        Size("max_position_embeddings", "context", default=32768),
        *DECODER[4:],
        Size("head_dim", f"{ATTENTION}head_dim", default=128),
        *GATED,
        RMS_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-6),
        qk_rms_norm("shared"),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        LayeredWindow(),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(),
    ),
    entries=(*ENTRIES, *QK_NORM_ENTRIES),
    ignored=ROTARY_BUFFERS,
)
