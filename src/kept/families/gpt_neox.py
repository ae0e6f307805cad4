"""GPT-NeoX: LayerNorm with bias, plain MLP, query, key and value fused by head; a quarter of each head rotates.

Attention and MLP are parallel with a norm each (Pythia), or sequential.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.entries import Entry, fused_attention_entries, linear, norm, norm_entries, plain_mlp_entries
from kept.families.items import MULTI_HEAD, WIDTH_OVER_HEADS, Always, Flag, Rotary, SpecialTokens
from kept.families.layout import Grouped
from kept.families.parts import activation, attention, layer_norms, mlp, sizes, tied_head
from kept.families.paths import ATTENTION, ATTENTION_BIASES, LAYER, PLAIN_MLP_BIASES
from kept.families.table import Family

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts


@dataclass(frozen=True)
class NoOtherTheta:
    """A check for `rope_theta`, which transformers 4 prefers to `rotary_emb_base` and 5 ignores. Comes after RoPE."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return no facts. Raises CheckpointError if the two keys differ."""
        theta = facts[f"{ATTENTION}rope.theta"]
        if config.get("rope_theta") not in (None, theta):
            raise config.wrong("rope_theta", f"{theta:g}, as rotary_emb_base says: versions of transformers disagree")
        return {}

    def write(self, facts: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """Return no keys."""
        return {}


GPT_NEOX = Family(
    name="gpt_neox",
    architecture="GPTNeoXForCausalLM",
    items=(
        *sizes(),
        *attention(kv_heads=MULTI_HEAD, head_dim=WIDTH_OVER_HEADS, fused=True),
        *mlp(activation("gelu"), gated=False),
        Always(tuple((path, True) for path in PLAIN_MLP_BIASES)),
        Flag("attention_bias", ATTENTION_BIASES, default=True),
        *layer_norms("layer_norm_eps"),
        Rotary(partial=0.25, reads_partial=True, theta_key="rotary_emb_base", partial_key="rotary_pct"),
        NoOtherTheta(),
        Flag("use_parallel_residual", (f"{LAYER}parallel",), default=True),
        tied_head(),
        SpecialTokens(bos=0, eos=2),
    ),
    entries=(
        Entry("embedding.weight", "gpt_neox.embed_in.weight"),
        *norm_entries("gpt_neox.layers.{i}.input_layernorm", "gpt_neox.layers.{i}.post_attention_layernorm"),
        *fused_attention_entries("gpt_neox.layers.{i}.attention", qkv="query_key_value", o="dense", layout=Grouped()),
        *plain_mlp_entries("gpt_neox.layers.{i}.mlp", up="dense_h_to_4h", down="dense_4h_to_h"),
        *norm("final_norm", "gpt_neox.final_layer_norm"),
        *linear("head", "embed_out"),
    ),
    ignored=("*.attention.bias", "*.attention.masked_bias", "*.rotary_emb.inv_freq"),
)
