"""GPT-2: LayerNorm with bias, learned positions, fused query-key-value, matrices stored (in, out), a tied head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.families.items import (
    ACTIVATIONS,
    DEEPEST,
    Always,
    Choice,
    DerivedFact,
    Fixed,
    Flag,
    Number,
    Size,
    SpecialTokens,
    as_many_as_queries,
    split_heads,
)
from kept.families.llama import ATTENTION_BIASES, NORM_EPS
from kept.families.orion import LAYER_NORMS
from kept.families.table import ATTENTION, MLP, Entry, Family, linear, norm

if TYPE_CHECKING:
    from kept.ir.facts import Facts


def four_widths(known: Facts) -> int:
    """The MLP's size where `n_inner` is null."""
    return int(4 * known["width"])


GPT2 = Family(
    name="gpt2",
    architecture="GPT2LMHeadModel",
    items=(
        Size("vocab_size", "vocabulary"),
        Size("n_embd", "width"),
        Size("n_layer", "depth", largest=DEEPEST),
        Size("n_positions", "context", default=1024),
        DerivedFact("positions", lambda known: known["context"]),
        Size("n_head", f"{ATTENTION}heads"),
        DerivedFact(f"{ATTENTION}kv_heads", as_many_as_queries),
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        Always(((f"{ATTENTION}rope", None), (f"{ATTENTION}fused", True), (f"{MLP}gated", False))),
        Always(tuple((path, True) for path in (*ATTENTION_BIASES, f"{MLP}up_bias", f"{MLP}down_bias"))),
        Size("n_inner", f"{MLP}size", default=four_widths),
        Choice("activation_function", f"{MLP}activation", ACTIVATIONS[2:], default="gelu_new"),
        LAYER_NORMS,
        Number("layer_norm_epsilon", NORM_EPS, default=1e-5),
        Fixed("scale_attn_weights", value=True, why="unscaled attention is not supported"),
        Fixed("scale_attn_by_inverse_layer_idx", value=False, why="a scale for each layer is not supported"),
        Fixed("add_cross_attention", value=False, why="this is an encoder-decoder, not a decoder"),
        Flag("tie_word_embeddings", ("head.tied",), default=True),
        SpecialTokens(bos=50256, eos=50256),
    ),
    entries=(
        Entry("embedding.weight", "transformer.wte.weight"),
        Entry("positions.weight", "transformer.wpe.weight"),
        *norm("layers.{i}.mixer_norm", "transformer.h.{i}.ln_1"),
        *linear("layers.{i}.mixer.qkv", "transformer.h.{i}.attn.c_attn", "transposed"),
        *linear("layers.{i}.mixer.o", "transformer.h.{i}.attn.c_proj", "transposed"),
        *norm("layers.{i}.mlp_norm", "transformer.h.{i}.ln_2"),
        *linear("layers.{i}.mlp.up", "transformer.h.{i}.mlp.c_fc", "transposed"),
        *linear("layers.{i}.mlp.down", "transformer.h.{i}.mlp.c_proj", "transposed"),
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
