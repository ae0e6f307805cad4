"""EXAONE 3.0 and 3.5: Llama under names of its own, with a tied head by default."""

from __future__ import annotations

from kept.families.entries import Entry, attention_entries, linear, mlp_entries, norm, norm_entries
from kept.families.items import PUBLISHED_SCALINGS, WIDTH_OVER_HEADS, Rotary, SpecialTokens, four_widths
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.table import Family
from kept.ir.spec import Llama3

EXAONE_SCALINGS = {**PUBLISHED_SCALINGS, "llama3": Llama3}
"""RoPE types that EXAONE's remote code computes as transformers 5 does.

LongRoPE and YaRN are excluded: the code never switches to `long_factor`, and its YaRN depends on the installed version
of transformers.
"""

EXAONE = Family(
    name="exaone",
    architecture="ExaoneForCausalLM",
    items=(
        *sizes(depth="num_layers"),
        *attention(head_dim=WIDTH_OVER_HEADS),
        *mlp(activation("silu", key="activation_function"), default_size=four_widths),
        *rms_norms("layer_norm_epsilon", 1e-5),
        Rotary(scalings=EXAONE_SCALINGS),
        tied_head(default=True),
        SpecialTokens(bos=0, eos=2),
    ),
    entries=(
        Entry("embedding.weight", "transformer.wte.weight"),
        *norm_entries("transformer.h.{i}.ln_1", "transformer.h.{i}.ln_2"),
        *attention_entries("transformer.h.{i}.attn.attention", o="out_proj"),
        *mlp_entries("transformer.h.{i}.mlp", gate="c_fc_0", up="c_fc_1", down="c_proj"),
        *norm("final_norm", "transformer.ln_f"),
        *linear("head", "lm_head"),
    ),
    ignored=("*.rotary.inv_freq", "*.rotary_emb.inv_freq"),
    stock=False,
    aliases={"num_hidden_layers": "num_layers"},
)
