"""Gemma 2: Gemma with post-norms, capped scores and logits, and a window in every other layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.families.entries import ROTARY_BUFFERS, llama_entries, norm, norm_entries
from kept.families.gemma import CAUSAL, GEMMA_HEAD_DIM, ROOT_OF_WIDTH
from kept.families.items import LAYER_TYPES, Cap, Flag, LayerWindows, Rotary, Scale, SpecialTokens
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION, ATTENTION_BIASES, LAYER, NORMS
from kept.families.table import Family

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts

POST_NORMS = (f"{LAYER}mixer_post_norm", f"{LAYER}mlp_post_norm")

POST_NORM_ENTRIES = (
    *norm_entries(mlp="model.layers.{i}.pre_feedforward_layernorm"),
    *norm(f"{LAYER}mixer_post_norm", "model.layers.{i}.post_attention_layernorm"),
    *norm(f"{LAYER}mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm"),
)
"""Stored names of the norms before and behind attention and MLP."""


def every_other_slides(_: Config, facts: Facts) -> list[str]:
    """Return the layer types: the first layer has a window, the second does not, and so on."""
    return [LAYER_TYPES[i % 2 == 0] for i in range(facts["depth"])]


GEMMA2 = Family(
    name="gemma2",
    architecture="Gemma2ForCausalLM",
    items=(
        *sizes(default_context=8192),
        *attention(head_dim=GEMMA_HEAD_DIM),
        ROOT_OF_WIDTH,
        *mlp(activation("gelu_pytorch_tanh", key="hidden_activation")),
        *rms_norms(norms=(*NORMS, *POST_NORMS), offset=1.0),
        Rotary(),
        Scale("query_pre_attn_scalar", power=-0.5, default=256),
        Cap("attn_logit_softcapping", f"{ATTENTION}softcap", default=50.0),
        Cap("final_logit_softcapping", "head.softcap", default=30.0),
        LayerWindows(every_other_slides),
        Flag("attention_bias", ATTENTION_BIASES),
        CAUSAL,
        tied_head(default=True),
        SpecialTokens(bos=2, eos=1, pad=0),
    ),
    entries=llama_entries(norms=POST_NORM_ENTRIES),
    ignored=ROTARY_BUFFERS,
)
