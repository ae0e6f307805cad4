"""GPT-2: LayerNorm with bias, learned positions, fused query-key-value, matrices stored (in, out), a tied head."""

from __future__ import annotations

from kept.families.entries import Entry, linear, norm, norm_entries, plain_mlp_entries
from kept.families.items import (
    ACTIVATIONS_WITHOUT_SILU,
    MULTI_HEAD,
    WIDTH_OVER_HEADS,
    Always,
    DerivedFact,
    Fixed,
    SpecialTokens,
    four_widths,
)
from kept.families.layout import Transposed
from kept.families.parts import activation, attention, layer_norms, mlp, sizes, tied_head
from kept.families.paths import ATTENTION, ATTENTION_BIASES, PLAIN_MLP_BIASES
from kept.families.table import Family

GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    items=(
        *sizes(width="n_embd", depth="n_layer", context="n_positions", default_context=1024),
        DerivedFact("positions", lambda facts: facts["context"]),
        *attention(heads="n_head", kv_heads=MULTI_HEAD, head_dim=WIDTH_OVER_HEADS, fused=True),
        Always(((f"{ATTENTION}rope", None),)),
        Always(tuple((path, True) for path in (*ATTENTION_BIASES, *PLAIN_MLP_BIASES))),
        *mlp(
            activation("gelu_new", key="activation_function", names=ACTIVATIONS_WITHOUT_SILU),
            gated=False,
            size="n_inner",
            default_size=four_widths,
        ),
        *layer_norms("layer_norm_epsilon"),
        Fixed("scale_attn_weights", value=True, why="unscaled attention is not supported"),
        Fixed("scale_attn_by_inverse_layer_idx", value=False, why="a scale for each layer is not supported"),
        Fixed("add_cross_attention", value=False, why="this is an encoder-decoder, not a decoder"),
        tied_head(default=True),
        SpecialTokens(bos=50256, eos=50256),
    ),
    entries=(
        Entry("embedding.weight", "transformer.wte.weight"),
        Entry("positions.weight", "transformer.wpe.weight"),
        *norm_entries("transformer.h.{i}.ln_1", "transformer.h.{i}.ln_2"),
        *linear(f"{ATTENTION}qkv", "transformer.h.{i}.attn.c_attn", Transposed()),
        *linear(f"{ATTENTION}o", "transformer.h.{i}.attn.c_proj", Transposed()),
        *plain_mlp_entries("transformer.h.{i}.mlp", up="c_fc", down="c_proj", layout=Transposed()),
        *norm("final_norm", "transformer.ln_f"),
        *linear("head", "lm_head"),
    ),
    ignored=("transformer.h.*.attn.bias", "transformer.h.*.attn.masked_bias"),
    aliases={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    },
)
