"""Cohere (Command R): attention and MLP read one LayerNorm without bias; interleaved RoPE; scaled logits."""

from __future__ import annotations

from kept.families.entries import ROTARY_BUFFERS, attention_entries, llama_entries, qk_norm_entries
from kept.families.items import WIDTH_OVER_HEADS, Flag, HeadNorms, Number, Rotary, SpecialTokens
from kept.families.parts import (
    PARALLEL_WITH_SHARED_NORM,
    SHARED_NORM,
    activation,
    attention,
    layer_norms,
    mlp,
    sizes,
    tied_head,
)
from kept.families.paths import ATTENTION_BIASES
from kept.families.table import Family

COHERE = Family(
    name="cohere",
    architecture="CohereForCausalLM",
    items=(
        *sizes(default_context=8192),
        *attention(head_dim=WIDTH_OVER_HEADS),
        *mlp(activation("silu")),
        PARALLEL_WITH_SHARED_NORM,
        *layer_norms("layer_norm_eps", norms=SHARED_NORM, bias=False),
        Rotary(theta=500_000.0, interleaved=True),
        HeadNorms("use_qk_norm", "own"),
        Flag("attention_bias", ATTENTION_BIASES),
        Number("logit_scale", ("head.multiplier",), default=0.0625),
        tied_head(default=True),
        SpecialTokens(bos=5, eos=255001, pad=0),
    ),
    entries=llama_entries(attention=(*attention_entries(), *qk_norm_entries())),
    ignored=ROTARY_BUFFERS,
)
