"""Falcon: parallel attention and plain MLP, with one LayerNorm or two; query, key and value fused by head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.entries import ROTARY_BUFFERS, Entry, fused_attention_entries, linear, norm, plain_mlp_entries
from kept.families.items import (
    WIDTH_OVER_HEADS,
    Always,
    Fixed,
    Flag,
    KeyValueHeads,
    Rotary,
    Size,
    SpecialTokens,
    four_widths,
)
from kept.families.layout import Grouped
from kept.families.parts import activation, layer_norms, mlp, sizes, tied_head, without_mlp_norm
from kept.families.paths import ATTENTION, ATTENTION_BIASES, LAYER, PLAIN_MLP_BIASES, first_value
from kept.families.table import Family

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts
    from kept.ir.spec import Layer

KEY_VALUE_HEADS = KeyValueHeads("num_kv_heads")


@dataclass(frozen=True)
class FalconDecoder:
    """`new_decoder_architecture` with groups of heads and one norm or two (40B, 11B), or `multi_query` (7B).

    The new form can state everything that the old one can. The old form is written if it can state the model. Comes
    after the norms.
    """

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the key-value heads and whether the norm is shared. Raises CheckpointError for other layers."""
        new = config.flag("new_decoder_architecture", default=False)
        if not config.flag("parallel_attn", default=True):
            raise config.wrong("parallel_attn", "true: attention and MLP in sequence are not supported")
        if not new and not config.flag("multi_query", default=True):
            raise config.wrong("multi_query", "true: the old form with several key-value heads is not supported")
        norms = config.size("num_ln_in_parallel_attn", 1 + new, largest=2)
        if norms == 2 and not new:
            raise config.wrong("num_ln_in_parallel_attn", "1 without new_decoder_architecture")
        heads = KEY_VALUE_HEADS.read(config, facts) if new else {KEY_VALUE_HEADS.path: 1}
        return {**heads, **(without_mlp_norm(facts) if norms == 1 else {})}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the keys."""
        heads = first_value(facts, KEY_VALUE_HEADS.path)
        norms = 1 if first_value(facts, f"{LAYER}shared_norm") else 2
        new = {"num_kv_heads": heads, "num_ln_in_parallel_attn": norms}
        old = heads == norms == 1
        return {"new_decoder_architecture": not old, "multi_query": True, "parallel_attn": True, **({} if old else new)}


def one_norm(layer: Layer) -> bool:
    """Whether attention and MLP of a layer share a norm."""
    return layer.shared_norm


def two_norms(layer: Layer) -> bool:
    """Whether attention and MLP of a layer have a norm each."""
    return not layer.shared_norm


FALCON = Family(
    name="falcon",
    architecture="FalconForCausalLM",
    items=(
        *sizes(),
        Size("num_attention_heads", f"{ATTENTION}heads"),
        WIDTH_OVER_HEADS,
        *mlp(activation("gelu", key="activation"), gated=False, size="ffn_hidden_size", default_size=four_widths),
        Always(((f"{ATTENTION}fused", True), (f"{LAYER}parallel", True))),
        Flag("bias", (*ATTENTION_BIASES, *PLAIN_MLP_BIASES)),
        *layer_norms("layer_norm_epsilon"),
        FalconDecoder(),
        Fixed("output_attentions", value=False, why="the class in transformers computes a different output with it"),
        Fixed("alibi", value=False, why="ALiBi is not supported"),
        Rotary(),
        tied_head(default=True),
        SpecialTokens(bos=11, eos=11),
    ),
    entries=(
        Entry("embedding.weight", "transformer.word_embeddings.weight"),
        *norm(f"{LAYER}mixer_norm", "transformer.h.{i}.input_layernorm", when=one_norm),
        *norm(f"{LAYER}mixer_norm", "transformer.h.{i}.ln_attn", when=two_norms),
        *norm(f"{LAYER}mlp_norm", "transformer.h.{i}.ln_mlp"),
        *fused_attention_entries(
            "transformer.h.{i}.self_attention", qkv="query_key_value", o="dense", layout=Grouped()
        ),
        *plain_mlp_entries("transformer.h.{i}.mlp", up="dense_h_to_4h", down="dense_4h_to_h"),
        *norm("final_norm", "transformer.ln_f"),
        *linear("head", "lm_head"),
    ),
    ignored=ROTARY_BUFFERS,
    aliases={"n_embed": "hidden_size"},
)
