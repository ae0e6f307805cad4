"""Qwen (the first): Llama under GPT-2's names, query, key and value fused with biases; `intermediate_size` is halved.

Its dynamic theta and its scaling of queries by log(length) act beyond `seq_length` only, so that is its context.
Configs of August 2023 have four sizes under older names (`n_embd`, `ffn_hidden_size`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.items import (
    Always,
    DerivedFact,
    Fixed,
    Flag,
    Number,
    Size,
    SpecialTokens,
    as_many_as_queries,
    first,
    split_heads,
)
from kept.families.lengths import LengthRule
from kept.families.llama import DECODER, MLP_BIASES, NORM_EPS, RMS_NORMS
from kept.families.table import ATTENTION, MLP, Entry, Family, linear, norm
from kept.ir.spec import Rope

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class HalvedSize(Size):
    """The config states the sum of gate's and up's sizes."""

    def read(self, config: Config, known: Facts) -> Facts:
        """Key to fact."""
        found = super().read(config, known)[self.path]
        if found % 2:
            raise config.wrong(self.key, "an even integer: it counts gate and up")
        return {self.path: found // 2}

    def write(self, table: Facts) -> dict[str, Any]:
        """Fact to key."""
        return {self.key: 2 * first(table, self.path)}


@dataclass(frozen=True)
class HeadSize:
    """`kv_channels`, which must be width over heads: the class splits by the one and projects by the other."""

    def read(self, config: Config, known: Facts) -> Facts:
        """Check, and the fact."""
        size = split_heads(known)
        if config.size("kv_channels", 128) != size:
            raise config.wrong("kv_channels", f"{size}, the width over the heads")
        return {f"{ATTENTION}head_dim": size}

    def write(self, table: Facts) -> dict[str, Any]:
        """Fact to key."""
        return {"kv_channels": first(table, f"{ATTENTION}head_dim")}


@dataclass(frozen=True)
class RotaryBase:
    """`rotary_emb_base`: whole heads turn. Comes after the head size."""

    def read(self, config: Config, known: Facts) -> Facts:
        """Key to rotation. Some configs of the 72B model state the base as `rope_theta` too, which no code reads."""
        base = config.positive("rotary_emb_base", 10_000.0)
        if config.get("rope_theta") not in (None, base):
            raise config.wrong("rope_theta", f"{base:g}, as rotary_emb_base: the family's own code reads that key only")
        return {f"{ATTENTION}rope": Rope(base, known[f"{ATTENTION}head_dim"])}

    def write(self, table: Facts) -> dict[str, Any]:
        """Rotation to key."""
        return {"rotary_emb_base": first(table, f"{ATTENTION}rope.theta")}


@dataclass(frozen=True)
class NoBias(Flag):
    """A flag that is true where the biases are not there."""

    def read(self, config: Config, known: Facts) -> Facts:
        """Key to facts."""
        return {path: not value for path, value in super().read(config, known).items()}

    def write(self, table: Facts) -> dict[str, Any]:
        """Facts to key."""
        return {key: not value for key, value in super().write(table).items()}


def query_scaling_rule(spec: Spec) -> LengthRule:
    """Return the rule of Qwen: `use_dynamic_ntk` and `use_logn_attn`, both true by default, act beyond the context."""
    return LengthRule(
        spec.context,
        "increases theta and scales queries by the log of their position (use_dynamic_ntk, use_logn_attn)",
        "pass",
    )


QWEN = Family(
    name="qwen",
    architecture="QWenLMHeadModel",
    items=(
        *DECODER[:3],
        Size("seq_length", "context"),
        DECODER[4],
        DerivedFact(f"{ATTENTION}kv_heads", as_many_as_queries),
        HeadSize(),
        HalvedSize("intermediate_size", f"{MLP}size", default=22016),
        Always(((f"{ATTENTION}fused", True), (f"{MLP}gated", True), (f"{MLP}activation", "silu"))),
        Always(tuple((f"{ATTENTION}{name}_bias", True) for name in "qkv")),
        NoBias("no_bias", (f"{ATTENTION}o_bias", *MLP_BIASES), default=True),
        RMS_NORMS,
        Number("layer_norm_epsilon", NORM_EPS, default=1e-6),
        RotaryBase(),
        Fixed("rotary_pct", value=1.0, why="heads that turn in part were never released"),
        Fixed("rope_scaling", value=None, why="this family's rotation is not scaled"),
        Fixed("scale_attn_weights", value=True, why="the family's own code scales, whatever the config says"),
        Fixed("pos_emb", value="rotary", why="learned positions were never released"),
        Fixed("use_cache_quantization", value=False, why="an int8 KV cache is not supported"),
        Fixed("apply_residual_connection_post_layernorm", value=False, why="post-norm residuals are not supported"),
        Fixed("visual", value=None, why="models that see are not read"),
        Flag("tie_word_embeddings", ("head.tied",)),
        SpecialTokens(),
    ),
    entries=(
        Entry("embedding.weight", "transformer.wte.weight"),
        *norm("layers.{i}.mixer_norm", "transformer.h.{i}.ln_1"),
        *linear("layers.{i}.mixer.qkv", "transformer.h.{i}.attn.c_attn"),
        *linear("layers.{i}.mixer.o", "transformer.h.{i}.attn.c_proj"),
        *norm("layers.{i}.mlp_norm", "transformer.h.{i}.ln_2"),
        *linear("layers.{i}.mlp.gate", "transformer.h.{i}.mlp.w2"),
        *linear("layers.{i}.mlp.up", "transformer.h.{i}.mlp.w1"),
        *linear("layers.{i}.mlp.down", "transformer.h.{i}.mlp.c_proj"),
        *norm("final_norm", "transformer.ln_f"),
        *linear("head", "lm_head"),
    ),
    ignored=("transformer.rotary_emb.inv_freq", "*.attn.masked_bias"),
    stock=False,
    rule=query_scaling_rule,
    aliases={
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "ffn_hidden_size": "intermediate_size",
    },
)
