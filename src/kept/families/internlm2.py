"""InternLM2 and 2.5: Llama under older names, with query, key and value fused by key-value head."""

from __future__ import annotations

from kept.families.entries import (
    ROTARY_BUFFERS,
    Entry,
    fused_attention_entries,
    linear,
    mlp_entries,
    norm,
    norm_entries,
)
from kept.families.items import PUBLISHED_SCALINGS, WIDTH_OVER_HEADS, Flag, Rotary, SpecialTokens
from kept.families.layout import Grouped
from kept.families.lengths import published_rule
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION_BIASES
from kept.families.table import Family

INTERNLM2 = Family(
    name="internlm2",
    architecture="InternLM2ForCausalLM",
    items=(
        *sizes(),
        *attention(head_dim=WIDTH_OVER_HEADS, fused=True),
        *mlp(activation("silu")),
        *rms_norms(),
        Rotary(scalings=PUBLISHED_SCALINGS),
        Flag("bias", ATTENTION_BIASES, default=True),
        tied_head(),
        SpecialTokens(bos=1, eos=2, pad=0),
    ),
    entries=(
        Entry("embedding.weight", "model.tok_embeddings.weight"),
        *norm_entries("model.layers.{i}.attention_norm", "model.layers.{i}.ffn_norm"),
        *fused_attention_entries("model.layers.{i}.attention", qkv="wqkv", o="wo", layout=Grouped()),
        *mlp_entries("model.layers.{i}.feed_forward", gate="w1", up="w3", down="w2"),
        *norm("final_norm", "model.norm"),
        *linear("head", "output"),
    ),
    ignored=ROTARY_BUFFERS,
    stock=False,
    rule=published_rule,
)
