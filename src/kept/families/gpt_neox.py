"""GPT-NeoX: LayerNorm with bias, plain MLP, query, key and value fused head by head, a quarter of each head turns.

Attention and MLP run side by side with a norm each (Pythia), or in sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.items import (
    ACTIVATIONS,
    Always,
    Choice,
    DerivedFact,
    Flag,
    Number,
    Size,
    SpecialTokens,
    as_many_as_queries,
    split_heads,
)
from kept.families.llama import ATTENTION_BIASES, DECODER, NORM_EPS
from kept.families.orion import LAYER_NORMS
from kept.families.rotary import Rotary
from kept.families.table import ATTENTION, MLP, Entry, Family, L, linear, norm

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts

PLAIN_MLP = Always(((f"{MLP}gated", False), (f"{MLP}up_bias", True), (f"{MLP}down_bias", True)))
"""The plain MLP with biases."""


@dataclass(frozen=True)
class NoOtherTheta:
    """`rope_theta`, which transformers 4 prefers to `rotary_emb_base` and 5 does not see. Comes after the rotation."""

    def read(self, config: Config, known: Facts) -> Facts:
        """Check that it says nothing else."""
        theta = known[f"{ATTENTION}rope.theta"]
        if config.get("rope_theta") not in (None, theta):
            raise config.wrong("rope_theta", f"{theta:g}, as rotary_emb_base says: versions of transformers disagree")
        return {}

    def write(self, table: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """Nothing to say."""
        return {}


GPT_NEOX = Family(
    name="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    items=(
        *DECODER[:5],
        DerivedFact(f"{ATTENTION}kv_heads", as_many_as_queries),
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        Size("intermediate_size", f"{MLP}size"),
        Choice("hidden_act", f"{MLP}activation", ACTIVATIONS, default="gelu"),
        PLAIN_MLP,
        Always(((f"{ATTENTION}fused", True),)),
        Flag("attention_bias", ATTENTION_BIASES, default=True),
        LAYER_NORMS,
        Number("layer_norm_eps", NORM_EPS, default=1e-5),
        Rotary(partial=0.25, says_partial=True, theta_key="rotary_emb_base", partial_key="rotary_pct"),
        NoOtherTheta(),
        Flag("use_parallel_residual", (f"{L}parallel",), default=True),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(bos=0, eos=2),
    ),
    entries=(
        Entry("embedding.weight", "gpt_neox.embed_in.weight"),
        *norm("layers.{i}.mixer_norm", "gpt_neox.layers.{i}.input_layernorm"),
        *linear("layers.{i}.mixer.qkv", "gpt_neox.layers.{i}.attention.query_key_value", "grouped"),
        *linear("layers.{i}.mixer.o", "gpt_neox.layers.{i}.attention.dense"),
        *norm("layers.{i}.mlp_norm", "gpt_neox.layers.{i}.post_attention_layernorm"),
        *linear("layers.{i}.mlp.up", "gpt_neox.layers.{i}.mlp.dense_h_to_4h"),
        *linear("layers.{i}.mlp.down", "gpt_neox.layers.{i}.mlp.dense_4h_to_h"),
        *norm("final_norm", "gpt_neox.final_layer_norm"),
        *linear("head", "embed_out"),
    ),
    ignored=("*.attention.bias", "*.attention.masked_bias", "*.rotary_emb.inv_freq"),
)
