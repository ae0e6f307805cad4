"""EXAONE 3.0 and 3.5: Llama under names of its own, a tied head where the config does not say."""

from __future__ import annotations

from kept.families.gpt2 import four_widths
from kept.families.items import (
    ACTIVATIONS,
    DEEPEST,
    Always,
    Choice,
    DerivedFact,
    Flag,
    Number,
    Size,
    SpecialTokens,
    split_heads,
)
from kept.families.llama import DECODER, NORM_EPS, RMS_NORMS
from kept.families.rotary import PUBLISHED, Rotary
from kept.families.table import ATTENTION, MLP, Entry, Family, linear, norm
from kept.ir.spec import Llama3

KINDS = {**PUBLISHED, "llama3": Llama3}
"""RoPE types that EXAONE's remote code computes as transformers 5 does.

LongRoPE and YaRN are excluded: the code never switches to `long_factor`, and its YaRN depends on the installed version
of transformers.
"""

EXAONE = Family(
    name="exaone",
    architecture="ExaoneForCausalLM",
    items=(
        *DECODER[:2],
        Size("num_layers", "depth", largest=DEEPEST),
        *DECODER[3:],
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        Size("intermediate_size", f"{MLP}size", default=four_widths),
        Choice("activation_function", f"{MLP}activation", ACTIVATIONS, default="silu"),
        Always(((f"{MLP}gated", True),)),
        RMS_NORMS,
        Number("layer_norm_epsilon", NORM_EPS, default=1e-5),
        Rotary(kinds=KINDS),
        Flag("tie_word_embeddings", ("head.tied",), default=True),
        SpecialTokens(bos=0, eos=2),
    ),
    entries=(
        Entry("embedding.weight", "transformer.wte.weight"),
        *norm("layers.{i}.mixer_norm", "transformer.h.{i}.ln_1"),
        *(
            entry
            for name in ("q", "k", "v")
            for entry in linear(f"layers.{{i}}.mixer.{name}", f"transformer.h.{{i}}.attn.attention.{name}_proj")
        ),
        *linear("layers.{i}.mixer.o", "transformer.h.{i}.attn.attention.out_proj"),
        *norm("layers.{i}.mlp_norm", "transformer.h.{i}.ln_2"),
        *linear("layers.{i}.mlp.gate", "transformer.h.{i}.mlp.c_fc_0"),
        *linear("layers.{i}.mlp.up", "transformer.h.{i}.mlp.c_fc_1"),
        *linear("layers.{i}.mlp.down", "transformer.h.{i}.mlp.c_proj"),
        *norm("final_norm", "transformer.ln_f"),
        *linear("head", "lm_head"),
    ),
    ignored=("*.rotary.inv_freq", "*.rotary_emb.inv_freq"),
    stock=False,
    aliases={"num_hidden_layers": "num_layers"},
)
