"""Qwen2: Llama with biases on query, key and value only, and windows from some layer on."""

from __future__ import annotations

from kept.families.items import Always, DerivedFact, Flag, LayeredWindow, Number, Size, SpecialTokens, split_heads
from kept.families.llama import DECODER, ENTRIES, GATED, NORM_EPS, RMS_NORMS, ROTARY_BUFFERS
from kept.families.rotary import Rotary
from kept.families.table import ATTENTION, Family

QWEN2 = Family(
    name="qwen2",
    architecture="Qwen2ForCausalLM",
    items=(
        *DECODER[:3],
        Size("max_position_embeddings", "context", default=32768),
        *DECODER[4:],
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        *GATED,
        RMS_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-6),
        Rotary(),
        Always(tuple((f"{ATTENTION}{name}_bias", True) for name in "qkv")),
        LayeredWindow(),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(),
    ),
    entries=ENTRIES,
    ignored=ROTARY_BUFFERS,
)
