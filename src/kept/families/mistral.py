"""Mistral: Llama with one sliding window for all layers (or none) and no biases."""

from __future__ import annotations

from kept.families.items import Flag, KeyValueHeads, Number, Size, SpecialTokens, Window
from kept.families.llama import DECODER, ENTRIES, GATED, HEAD_DIM, NORM_EPS, RMS_NORMS, ROTARY_BUFFERS
from kept.families.rotary import Rotary
from kept.families.table import ATTENTION, Family

MISTRAL = Family(
    name="mistral",
    architecture="MistralForCausalLM",
    items=(
        *DECODER[:3],
        Size("max_position_embeddings", "context", default=4096 * 32),
        DECODER[4],
        KeyValueHeads("num_key_value_heads", f"{ATTENTION}kv_heads", default=8),
        HEAD_DIM,
        *GATED,
        RMS_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-6),
        Rotary(),
        Window(default=4096),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=ENTRIES,
    ignored=ROTARY_BUFFERS,
)
