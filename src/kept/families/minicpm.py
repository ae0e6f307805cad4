"""MiniCPM (1, 2 and 4, dense): Llama with multipliers on embedding, residuals and logits; a tied head by default."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import PUBLISHED_SCALINGS, WIDTH_OVER_HEADS, Fixed, Flag, Number, Rotary, SpecialTokens
from kept.families.lengths import published_rule, switched
from kept.families.parts import NO_EXPERTS, activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION_BIASES, LAYER, first_value
from kept.families.table import Family
from kept.ir.spec import LongRope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kept.families.config import Config
    from kept.families.lengths import LengthRule
    from kept.ir.facts import Facts
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class ScaledMultiplier:
    """A multiplier that the config states times some factor of the model's sizes, such as the square root of its depth.

    `from_key` returns the multiplier of a key's value, `to_key` is its inverse. `default` is the value of an absent
    key, `null` that of a null one, if not the same. `whole`: the class accepts whole numbers only.
    """

    key: str
    path: str
    from_key: Callable[[float, Facts], float]
    to_key: Callable[[float, Facts], float]
    default: float = 1.0
    null: Callable[[Facts], float] | None = None
    whole: bool = False

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the multiplier."""
        is_null = self.null is not None and config.states(self.key) and config.get(self.key) is None
        default = self.null(facts) if is_null and self.null is not None else self.default
        return {self.path: self.from_key(config.positive(self.key, default), facts)}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key, with the shortest number that reads back as the multiplier."""
        multiplier = first_value(facts, self.path)
        value = self.to_key(multiplier, facts)
        near = (round(value, 12), value, math.nextafter(value, math.inf), math.nextafter(value, 0.0))
        found = next((one for one in near if self.from_key(one, facts) == multiplier), value)
        return {self.key: max(1, round(found)) if self.whole or found.is_integer() else found}


@dataclass(frozen=True)
class TabledRotary(Rotary):
    """RoPE of MiniCPM, whose code computes the table of angles for the whole context when it builds the model.

    If the context is longer than LongRoPE's original length, `long_factor` therefore applies at every length. Cosines
    and sines are multiplied by sqrt(1 + ln(context / original) / ln(original)), even if that is below 1. The keys
    `factor` and `attention_factor` are not read, so they may only repeat these values.
    """

    scalings: Mapping[str, type[Any]] = field(default_factory=lambda: {**PUBLISHED_SCALINGS, "longrope": LongRope})

    def read(self, config: Config, facts: Facts) -> Facts:
        """Read keys into a rotation. Raises CheckpointError for values that MiniCPM's code would not use."""
        found = super().read(config, facts)
        scaling = found[self.path].scaling
        if not isinstance(scaling, LongRope):
            return found
        tabled = _tabled(config, scaling, facts["context"])
        return {self.path: replace(found[self.path], scaling=tabled)}


def _tabled(config: Config, scaling: LongRope, context: int) -> LongRope:
    section = config.section("rope_parameters" if config.get("rope_scaling") in (None, {}) else "rope_scaling")
    original = section.size("original_max_position_embeddings")
    if original != scaling.original_max_position_embeddings:
        raise config.wrong("original_max_position_embeddings", f"{original}, as in the RoPE section")
    ratio = context / original
    factor = math.sqrt(1 + math.log(ratio) / math.log(original))
    for key, value in (("factor", ratio), ("attention_factor", factor)):
        if section.get(key) not in (None, value):
            raise section.wrong(key, f"{value:g}, which the family's own code computes from the two lengths")
    short = scaling.long_factor if ratio > 1 else scaling.short_factor
    return replace(scaling, short_factor=short, factor=ratio, attention_factor=factor)


def tabled_rule(spec: Spec) -> LengthRule | None:
    """Return the rule of MiniCPM: a sequence longer than the RoPE table replaces the table permanently."""
    return switched(spec, "uses LongRoPE's long_factor permanently", "history", always=True) or published_rule(spec)


def over_root_of_depth(value: float, facts: Facts) -> float:
    """Return `scale_depth` over the square root of the depth."""
    return float(value / math.sqrt(facts["depth"]))


def times_root_of_depth(value: float, facts: Facts) -> float:
    """Return the inverse."""
    return float(value * math.sqrt(facts["depth"]))


def over_width(value: float, facts: Facts) -> float:
    """Return `dim_model_base` over the width."""
    return float(value / facts["width"])


def times_width(value: float, facts: Facts) -> float:
    """Return the inverse."""
    return float(value * facts["width"])


MINICPM = Family(
    name="minicpm",
    architecture="MiniCPMForCausalLM",
    items=(
        *sizes(),
        *attention(head_dim=WIDTH_OVER_HEADS),
        *mlp(activation("silu")),
        NO_EXPERTS,
        Fixed("pretraining_tp", value=1, why="in slices, the family's own code leaves out dim_model_base"),
        Fixed("sparse_config", value=None, why="sparse attention is not supported; remove it for dense attention"),
        *rms_norms(),
        TabledRotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        Number("scale_emb", ("embedding_multiplier",), default=1.0),
        ScaledMultiplier("scale_depth", f"{LAYER}residual_multiplier", over_root_of_depth, times_root_of_depth),
        ScaledMultiplier("dim_model_base", "head.multiplier", over_width, times_width),
        tied_head(default=True),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
    stock=False,
    rule=tabled_rule,
)
