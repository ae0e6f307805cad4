"""Phi 1 and 2: one LayerNorm for parallel attention and plain MLP, and biases everywhere, on the head too."""

from __future__ import annotations

from kept.families.entries import (
    ROTARY_BUFFERS,
    attention_entries,
    llama_entries,
    norm,
    plain_mlp_entries,
    qk_norm_entries,
)
from kept.families.items import WIDTH_OVER_HEADS, Always, HeadNorms, Rotary, SpecialTokens
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
from kept.families.paths import ATTENTION_BIASES, LAYER, PLAIN_MLP_BIASES
from kept.families.table import Family

PHI = Family(
    name="phi",
    architecture="PhiForCausalLM",
    items=(
        *sizes(),
        *attention(head_dim=WIDTH_OVER_HEADS),
        *mlp(activation("gelu_new"), gated=False),
        PARALLEL_WITH_SHARED_NORM,
        Always(tuple((path, True) for path in (*ATTENTION_BIASES, *PLAIN_MLP_BIASES, "head.bias"))),
        *layer_norms("layer_norm_eps", norms=SHARED_NORM),
        Rotary(partial=0.5, reads_partial=True),
        HeadNorms("qk_layernorm", "shared", bias=True),
        tied_head(),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=llama_entries(
        norms=norm(f"{LAYER}mixer_norm", "model.layers.{i}.input_layernorm"),
        attention=(*attention_entries(o="dense"), *qk_norm_entries("q_layernorm", "k_layernorm")),
        mlp=plain_mlp_entries(up="fc1", down="fc2"),
        final_norm="model.final_layernorm",
    ),
    ignored=ROTARY_BUFFERS,
)
