"""Gemma 2: Gemma with norms behind its parts too, scores and logits capped, and a window in every other layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.families.gemma import CAUSAL, ROOT_OF_WIDTH
from kept.families.items import (
    ACTIVATIONS,
    LAYER_TYPES,
    Always,
    Cap,
    Choice,
    Flag,
    LayerWindows,
    Number,
    Scale,
    Size,
    SpecialTokens,
)
from kept.families.llama import ATTENTION_BIASES, DECODER, ENTRIES, NORM_PATHS, ROTARY_BUFFERS
from kept.families.rotary import Rotary
from kept.families.table import ATTENTION, MLP, Family, L, norm

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts

NORMS = (*NORM_PATHS, f"{L}mixer_post_norm", f"{L}mlp_post_norm")


def every_other_slides(_: Config, known: Facts) -> list[str]:
    """The first layer slides, the second does not."""
    return [LAYER_TYPES[i % 2 == 0] for i in range(known["depth"])]


GEMMA2 = Family(
    name="gemma2",
    architecture="Gemma2ForCausalLM",
    items=(
        *DECODER[:3],
        Size("max_position_embeddings", "context", default=8192),
        *DECODER[4:],
        Size("head_dim", f"{ATTENTION}head_dim", default=256),
        ROOT_OF_WIDTH,
        Size("intermediate_size", f"{MLP}size"),
        Choice("hidden_activation", f"{MLP}activation", ACTIVATIONS, default="gelu_pytorch_tanh"),
        Always(((f"{MLP}gated", True),)),
        Always(
            tuple((f"{path}.{fact}", value) for path in NORMS for fact, value in (("kind", "rms"), ("offset", 1.0)))
        ),
        Number("rms_norm_eps", tuple(f"{path}.eps" for path in NORMS), default=1e-6),
        Rotary(),
        Scale("query_pre_attn_scalar", power=-0.5, default=256),
        Cap("attn_logit_softcapping", f"{ATTENTION}softcap", default=50.0),
        Cap("final_logit_softcapping", "head.softcap", default=30.0),
        LayerWindows(every_other_slides),
        Flag("attention_bias", ATTENTION_BIASES),
        CAUSAL,
        Flag("tie_word_embeddings", ("head.tied",), default=True),
        SpecialTokens(bos=2, eos=1, pad=0),
    ),
    entries=(
        *(entry for entry in ENTRIES if ".mlp_norm." not in entry.slot),
        *norm("layers.{i}.mixer_post_norm", "model.layers.{i}.post_attention_layernorm"),
        *norm("layers.{i}.mlp_norm", "model.layers.{i}.pre_feedforward_layernorm"),
        *norm("layers.{i}.mlp_post_norm", "model.layers.{i}.post_feedforward_layernorm"),
    ),
    ignored=ROTARY_BUFFERS,
)
