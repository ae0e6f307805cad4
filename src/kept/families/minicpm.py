"""MiniCPM (1, 2 and 4, dense): Llama with multipliers on embedding, residuals and logits; a tied head by default."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kept.families.items import NO_EXPERTS, DerivedFact, Fixed, Flag, Number, SpecialTokens, first, split_heads
from kept.families.lengths import published_rule, switched
from kept.families.llama import ATTENTION_BIASES, DECODER, ENTRIES, GATED, NORM_EPS, RMS_NORMS, ROTARY_BUFFERS
from kept.families.rotary import PUBLISHED, Rotary
from kept.families.table import ATTENTION, Family, L
from kept.ir.spec import LongRope

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kept.families.config import Config
    from kept.families.lengths import LengthRule
    from kept.ir.facts import Facts
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class Share:
    """A multiplier that the config states times some number, or over it: `share` makes the multiplier of the key."""

    key: str
    path: str
    share: Callable[[float, Facts], float]
    whole: Callable[[float, Facts], float]

    def read(self, config: Config, known: Facts) -> Facts:
        """Key to multiplier."""
        return {self.path: self.share(config.positive(self.key, 1.0), known)}

    def write(self, table: Facts) -> dict[str, Any]:
        """Multiplier to key: of the numbers that read back as it the roundest."""
        multiplier = first(table, self.path)
        value = self.whole(multiplier, table)
        near = (round(value, 12), value, math.nextafter(value, math.inf), math.nextafter(value, 0.0))
        return {self.key: next((one for one in near if self.share(one, table) == multiplier), value)}


@dataclass(frozen=True)
class TabledRotary(Rotary):
    """RoPE of MiniCPM, whose code computes the table of angles for the whole context when it builds the model.

    If the context is longer than LongRoPE's original length, `long_factor` therefore applies at every length. Cosines
    and sines are multiplied by sqrt(1 + ln(context / original) / ln(original)), even if that is below 1. The keys
    `factor` and `attention_factor` are not read, so they may only repeat these values.
    """

    kinds: Mapping[str, type[Any]] = field(default_factory=lambda: {**PUBLISHED, "longrope": LongRope})

    def read(self, config: Config, known: Facts) -> Facts:
        """Read keys into a rotation. Raises CheckpointError for values that MiniCPM's code would not use."""
        found = super().read(config, known)
        scaling = found[self.path].scaling
        if not isinstance(scaling, LongRope):
            return found
        tabled = _tabled(config, scaling, known["context"])
        return {self.path: replace(found[self.path], scaling=tabled)}


def _tabled(config: Config, scaling: LongRope, context: int) -> LongRope:
    given = config.section("rope_parameters" if config.get("rope_scaling") in (None, {}) else "rope_scaling")
    original = given.size("original_max_position_embeddings")
    if original != scaling.original_max_position_embeddings:
        raise config.wrong("original_max_position_embeddings", f"{original}, as in the RoPE section")
    ratio = context / original
    factor = math.sqrt(1 + math.log(ratio) / math.log(original))
    for key, value in (("factor", ratio), ("attention_factor", factor)):
        if given.get(key) not in (None, value):
            raise given.wrong(key, f"{value:g}, which the family's own code computes from the two lengths")
    short = scaling.long_factor if ratio > 1 else scaling.short_factor
    return replace(scaling, short_factor=short, factor=ratio, attention_factor=factor)


def tabled_rule(spec: Spec) -> LengthRule | None:
    """Return the rule of MiniCPM: a sequence longer than the RoPE table replaces the table permanently."""
    return switched(spec, "uses LongRoPE's long_factor permanently", "history", always=True) or published_rule(spec)


def per_layer(value: float, known: Facts) -> float:
    """`scale_depth` over the square root of the depth."""
    return float(value / math.sqrt(known["depth"]))


def all_layers(value: float, known: Facts) -> float:
    """The inverse."""
    return float(value * math.sqrt(known["depth"]))


def of_width(value: float, known: Facts) -> float:
    """`dim_model_base` over the width."""
    return float(value / known["width"])


def times_width(value: float, known: Facts) -> float:
    """The inverse."""
    return float(value * known["width"])


MINICPM = Family(
    name="minicpm",
    architecture="MiniCPMForCausalLM",
    items=(
        *DECODER,
        DerivedFact(f"{ATTENTION}head_dim", split_heads),
        *GATED,
        NO_EXPERTS,
        Fixed("pretraining_tp", value=1, why="in slices, the family's own code leaves out dim_model_base"),
        Fixed("sparse_config", value=None, why="sparse attention is not supported; take it out to attend densely"),
        RMS_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-6),
        TabledRotary(),
        Flag("attention_bias", ATTENTION_BIASES),
        Number("scale_emb", ("embedding_multiplier",), default=1.0),
        Share("scale_depth", f"{L}residual_multiplier", per_layer, all_layers),
        Share("dim_model_base", "head.multiplier", of_width, times_width),
        Flag("tie_word_embeddings", ("head.tied",), default=True),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=ENTRIES,
    ignored=ROTARY_BUFFERS,
    stock=False,
    rule=tabled_rule,
)
