"""OLMo 2: Llama with post-norms instead of norms before the branches, and norms of queries and keys over all heads."""

from __future__ import annotations

from kept.families.entries import ROTARY_BUFFERS, attention_entries, llama_entries, norm, qk_norm_entries
from kept.families.items import Always, Flag, Rotary, SpecialTokens
from kept.families.parts import activation, attention, mlp, qk_rms_norm, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION_BIASES, LAYER
from kept.families.table import Family
from kept.ir.spec import NO_NORM

OLMO2 = Family(
    name="olmo2",
    architecture="Olmo2ForCausalLM",
    items=(
        *sizes(),
        *attention(),
        *mlp(activation("silu")),
        Always(((f"{LAYER}mixer_norm", NO_NORM), (f"{LAYER}mlp_norm", NO_NORM))),
        *rms_norms(default=1e-5, norms=(f"{LAYER}mixer_post_norm", f"{LAYER}mlp_post_norm", "final_norm")),
        qk_rms_norm("full"),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        tied_head(),
        SpecialTokens(eos=50279, pad=1),
    ),
    entries=llama_entries(
        norms=(
            *norm(f"{LAYER}mixer_post_norm", "model.layers.{i}.post_attention_layernorm"),
            *norm(f"{LAYER}mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm"),
        ),
        attention=(*attention_entries(), *qk_norm_entries()),
    ),
    ignored=ROTARY_BUFFERS,
)
