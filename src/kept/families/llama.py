"""Llama: the stock target. RMSNorm without bias, full rotation, gated MLP; biases all or none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.families.items import (
    ACTIVATIONS,
    DEEPEST,
    Always,
    Choice,
    DerivedFact,
    Flag,
    KeyValueHeads,
    Number,
    Size,
    SpecialTokens,
    as_many_as_queries,
    split_heads,
)
from kept.families.rotary import Rotary
from kept.families.table import ATTENTION, MLP, Entry, Family, L, linear, norm
from kept.ir.facts import Violation
from kept.ir.spec import Norm, QkNorm

if TYPE_CHECKING:
    from typing import Literal

    from kept.ir.spec import Spec

DECODER = (
    Size("vocab_size", "vocabulary"),
    Size("hidden_size", "width"),
    Size("num_hidden_layers", "depth", largest=DEEPEST),
    Size("max_position_embeddings", "context", default=2048),
    Size("num_attention_heads", f"{ATTENTION}heads"),
    KeyValueHeads("num_key_value_heads", f"{ATTENTION}kv_heads", default=as_many_as_queries),
)
"""The sizes that nearly every family names alike."""

HEAD_DIM = Size("head_dim", f"{ATTENTION}head_dim", default=split_heads)

GATED = (
    Size("intermediate_size", f"{MLP}size"),
    Choice("hidden_act", f"{MLP}activation", ACTIVATIONS, default="silu"),
    Always(((f"{MLP}gated", True),)),
)
"""The gated MLP."""

NORM_PATHS = (f"{L}mixer_norm", f"{L}mlp_norm", "final_norm")

RMS_NORMS = Always(tuple((f"{path}.kind", "rms") for path in NORM_PATHS))

OFFSET_GAINS = Always(tuple((f"{path}.offset", 1.0) for path in NORM_PATHS))
"""Norms whose stored gain is what is added to 1."""

NORM_EPS = tuple(f"{path}.eps" for path in NORM_PATHS)

ATTENTION_BIASES = tuple(f"{ATTENTION}{name}_bias" for name in "qkvo")

MLP_BIASES = tuple(f"{MLP}{name}_bias" for name in ("gate", "up", "down"))

ENTRIES = (
    Entry("embedding.weight", "model.embed_tokens.weight"),
    *norm("layers.{i}.mixer_norm", "model.layers.{i}.input_layernorm"),
    *(
        entry
        for name in "qkvo"
        for entry in linear(f"layers.{{i}}.mixer.{name}", f"model.layers.{{i}}.self_attn.{name}_proj")
    ),
    *norm("layers.{i}.mlp_norm", "model.layers.{i}.post_attention_layernorm"),
    *(
        entry
        for name in ("gate", "up", "down")
        for entry in linear(f"layers.{{i}}.mlp.{name}", f"model.layers.{{i}}.mlp.{name}_proj")
    ),
    *norm("final_norm", "model.norm"),
    *linear("head", "lm_head"),
)
"""Tensor names of Llama and of the many that took them over."""

ROTARY_BUFFERS = ("*.rotary_emb.inv_freq",)
"""Old checkpoints carry them; they are computed."""


def qk_rms_norm(scope: Literal["shared", "full"]) -> DerivedFact:
    """An RMSNorm of queries and keys with the epsilon of the others. Comes after it."""
    return DerivedFact(f"{ATTENTION}qk_norm", lambda known: QkNorm(Norm("rms", known["final_norm.eps"]), scope))


QK_NORM_ENTRIES = tuple(
    entry
    for name in "qk"
    for entry in norm(f"layers.{{i}}.mixer.{name}_norm", f"model.layers.{{i}}.self_attn.{name}_norm")
)


def width_over_heads(spec: Spec) -> Violation | None:
    """The stock class refuses a width that the heads do not divide, whatever the head size."""
    for i, layer in enumerate(spec.layers):
        if layer.attention is not None and spec.width % layer.attention.heads:
            return Violation(f"{ATTENTION}heads", layer.attention.heads, f"a divisor of the width {spec.width}", i)
    return None


LLAMA = Family(
    name="llama",
    architecture="LlamaForCausalLM",
    items=(
        *DECODER,
        HEAD_DIM,
        *GATED,
        RMS_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-6),
        Rotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        Flag("mlp_bias", MLP_BIASES),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=ENTRIES,
    ignored=ROTARY_BUFFERS,
    limits=(width_over_heads,),
)
