"""Falcon: attention and plain MLP side by side, with one LayerNorm or two, query, key and value fused head by head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.gpt2 import four_widths
from kept.families.items import (
    ACTIVATIONS,
    Always,
    Choice,
    DerivedFact,
    Fixed,
    Flag,
    KeyValueHeads,
    Number,
    Size,
    SpecialTokens,
    as_many_as_queries,
    first,
    one_shared_norm,
    split_heads,
)
from kept.families.llama import ATTENTION_BIASES, DECODER, NORM_EPS, ROTARY_BUFFERS
from kept.families.orion import LAYER_NORMS
from kept.families.rotary import Rotary
from kept.families.table import ATTENTION, MLP, Entry, Family, L, linear, norm

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts
    from kept.ir.spec import Spec

KEY_VALUE_HEADS = KeyValueHeads("num_kv_heads", f"{ATTENTION}kv_heads", default=as_many_as_queries)


@dataclass(frozen=True)
class FalconDecoder:
    """`new_decoder_architecture` with groups of heads and one norm or two (40B, 11B), or `multi_query` (7B).

    The old form says nothing that the new one could not; it is written where it can be. Comes after the norms.
    """

    def read(self, config: Config, known: Facts) -> Facts:
        """Keys to facts."""
        new = config.flag("new_decoder_architecture", default=False)
        if not config.flag("parallel_attn", default=True):
            raise config.wrong("parallel_attn", "true: attention and MLP in sequence are not supported")
        if not new and not config.flag("multi_query", default=True):
            raise config.wrong("multi_query", "true: the old form with several key-value heads is not supported")
        norms = config.size("num_ln_in_parallel_attn", 1 + new, largest=2)
        if norms == 2 and not new:
            raise config.wrong("num_ln_in_parallel_attn", "1 without new_decoder_architecture")
        heads = KEY_VALUE_HEADS.read(config, known) if new else {KEY_VALUE_HEADS.path: 1}
        return {**heads, **(one_shared_norm(known) if norms == 1 else {})}

    def write(self, table: Facts) -> dict[str, Any]:
        """Facts to keys."""
        heads, norms = first(table, KEY_VALUE_HEADS.path), 1 if first(table, f"{L}shared_norm") else 2
        new = {"num_kv_heads": heads, "num_ln_in_parallel_attn": norms}
        old = heads == norms == 1
        return {"new_decoder_architecture": not old, "multi_query": True, "parallel_attn": True, **({} if old else new)}


def two_norms(spec: Spec) -> bool:
    """Whether attention and MLP have a norm each."""
    return not any(layer.shared_norm for layer in spec.layers)


def one_norm(spec: Spec) -> bool:
    """Whether attention and MLP share one."""
    return not two_norms(spec)


FALCON = Family(
    name="falcon",
    architecture="FalconForCausalLM",
    items=(
        *DECODER[:5],
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        Size("ffn_hidden_size", f"{MLP}size", default=four_widths),
        Choice("activation", f"{MLP}activation", ACTIVATIONS, default="gelu"),
        Always(((f"{ATTENTION}fused", True), (f"{MLP}gated", False), (f"{L}parallel", True))),
        Flag("bias", (*ATTENTION_BIASES, f"{MLP}up_bias", f"{MLP}down_bias")),
        LAYER_NORMS,
        Number("layer_norm_epsilon", NORM_EPS, default=1e-5),
        FalconDecoder(),
        Fixed("output_attentions", value=False, why="the class in transformers computes a different output with it"),
        Fixed("alibi", value=False, why="ALiBi is not supported"),
        Rotary(),
        Flag("tie_word_embeddings", ("head.tied",), default=True),
        SpecialTokens(bos=11, eos=11),
    ),
    entries=(
        Entry("embedding.weight", "transformer.word_embeddings.weight"),
        *norm("layers.{i}.mixer_norm", "transformer.h.{i}.input_layernorm", one_norm),
        *norm("layers.{i}.mixer_norm", "transformer.h.{i}.ln_attn", two_norms),
        *linear("layers.{i}.mixer.qkv", "transformer.h.{i}.self_attention.query_key_value", "grouped"),
        *linear("layers.{i}.mixer.o", "transformer.h.{i}.self_attention.dense"),
        *norm("layers.{i}.mlp_norm", "transformer.h.{i}.ln_mlp"),
        *linear("layers.{i}.mlp.up", "transformer.h.{i}.mlp.dense_h_to_4h"),
        *linear("layers.{i}.mlp.down", "transformer.h.{i}.mlp.dense_4h_to_h"),
        *norm("final_norm", "transformer.ln_f"),
        *linear("head", "lm_head"),
    ),
    ignored=ROTARY_BUFFERS,
    aliases={"n_embed": "hidden_size"},
)
