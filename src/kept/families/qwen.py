"""Qwen (the first): Llama under GPT-2's names, query, key and value fused with biases; a halved `intermediate_size`.

Its dynamic theta and its scaling of queries by log(length) act beyond `seq_length` only, so that is the context.
Configs of August 2023 have four sizes under older names (`n_embd`, `ffn_hidden_size`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.entries import Entry, fused_attention_entries, linear, mlp_entries, norm, norm_entries
from kept.families.items import MULTI_HEAD, Always, Fixed, Flag, Size, SpecialTokens, width_over_heads
from kept.families.lengths import LengthRule
from kept.families.parts import attention, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION, MLP, MLP_BIASES, QKV_BIASES, first_value
from kept.families.table import Family
from kept.ir.spec import Rope

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class HalvedSize(Size):
    """A size of which the config states the double: gate and up together."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the fact."""
        found = super().read(config, facts)[self.path]
        if found % 2:
            raise config.wrong(self.key, "an even integer: it counts gate and up")
        return {self.path: found // 2}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key."""
        return {self.key: 2 * first_value(facts, self.path)}


@dataclass(frozen=True)
class HeadSize:
    """`kv_channels`, the width over the heads: the class splits by the one and projects by the other."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the head size. Raises CheckpointError if the two differ."""
        size = width_over_heads(facts)
        if config.size("kv_channels", 128) != size:
            raise config.wrong("kv_channels", f"{size}, the width over the heads")
        return {f"{ATTENTION}head_dim": size}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key."""
        return {"kv_channels": first_value(facts, f"{ATTENTION}head_dim")}


@dataclass(frozen=True)
class RotaryBase:
    """`rotary_emb_base`: RoPE over whole heads. Comes after the head size."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the rotation. Some configs of the 72B model state `rope_theta` too, which no code reads."""
        base = config.positive("rotary_emb_base", 10_000.0)
        if config.get("rope_theta") not in (None, base):
            raise config.wrong("rope_theta", f"{base:g}, as rotary_emb_base: the family's own code reads that key only")
        return {f"{ATTENTION}rope": Rope(base, facts[f"{ATTENTION}head_dim"])}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key."""
        return {"rotary_emb_base": first_value(facts, f"{ATTENTION}rope.theta")}


@dataclass(frozen=True)
class NoBias(Flag):
    """A flag that is true if there are no biases."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the facts."""
        return {path: not value for path, value in super().read(config, facts).items()}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key."""
        return {key: not value for key, value in super().write(facts).items()}


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
        *sizes(context="seq_length", default_context=None),
        *attention(kv_heads=MULTI_HEAD, head_dim=HeadSize(), fused=True),
        HalvedSize("intermediate_size", f"{MLP}size", default=22016),
        Always(((f"{MLP}gated", True), (f"{MLP}activation", "silu"))),
        Always(tuple((path, True) for path in QKV_BIASES)),
        NoBias("no_bias", (f"{ATTENTION}o_bias", *MLP_BIASES), default=True),
        *rms_norms("layer_norm_epsilon"),
        RotaryBase(),
        Fixed("rotary_pct", value=1.0, why="partial rotation was never released"),
        Fixed("rope_scaling", value=None, why="this family's rotation is not scaled"),
        Fixed("scale_attn_weights", value=True, why="the family's own code scales, whatever the config says"),
        Fixed("pos_emb", value="rotary", why="learned positions were never released"),
        Fixed("use_cache_quantization", value=False, why="an int8 KV cache is not supported"),
        Fixed("apply_residual_connection_post_layernorm", value=False, why="post-norm residuals are not supported"),
        Fixed("visual", value=None, why="vision models are not supported"),
        tied_head(),
        SpecialTokens(),
    ),
    entries=(
        Entry("embedding.weight", "transformer.wte.weight"),
        *norm_entries("transformer.h.{i}.ln_1", "transformer.h.{i}.ln_2"),
        *fused_attention_entries("transformer.h.{i}.attn", qkv="c_attn", o="c_proj"),
        *mlp_entries("transformer.h.{i}.mlp", gate="w2", up="w1", down="c_proj"),
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
