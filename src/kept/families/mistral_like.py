"""Llama with windows or a position scale: Ministral, Ministral 3 and CWM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import (
    HEAD_DIM,
    HEADS_OF_128,
    LAYER_TYPES,
    Flag,
    KeyValueHeads,
    LayerWindows,
    Rotary,
    SpecialTokens,
    Window,
)
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION, MLP_BIASES, first_value
from kept.families.table import Family
from kept.ir.spec import PositionScale

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts

POSITION_SCALE = f"{ATTENTION}position_scale"

BETA, ORIGINAL = "llama_4_scaling_beta", "original_max_position_embeddings"


def all_slide(_: Config, facts: Facts) -> list[str]:
    """Return the layer types of Ministral: every layer has the window."""
    return [LAYER_TYPES[1]] * int(facts["depth"])


def three_of_four_slide(_: Config, facts: Facts) -> list[str]:
    """Return the layer types of CWM: the first layer has no window, the next three have, and so on."""
    return [LAYER_TYPES[i % 4 != 0] for i in range(facts["depth"])]


@dataclass(frozen=True)
class ScaledRotary(Rotary):
    """RoPE of Ministral 3, whose section also holds the factor on queries (`llama_4_scaling_beta`)."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the rotation and the factor. Raises CheckpointError if a section lacks beta."""
        section = self._section(config)
        beta = section.number(BETA)
        length = section.size(ORIGINAL, facts["context"])
        return {**super().read(config, facts), POSITION_SCALE: PositionScale(beta, length) if beta else None}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the keys of both forms. Without a factor, beta is 0."""
        keys = super().write(facts)
        length = first_value(facts, f"{POSITION_SCALE}.length") or facts["context"]
        beta = first_value(facts, f"{POSITION_SCALE}.beta") or 0.0
        sections = {key: keys.get(key) for key in ("rope_parameters", "rope_scaling")}
        return {**keys, **{key: said and {ORIGINAL: length, **said, BETA: beta} for key, said in sections.items()}}


MINISTRAL = Family(
    name="ministral",
    architecture="MinistralForCausalLM",
    items=(
        *sizes(default_context=4096 * 32),
        *attention(kv_heads=KeyValueHeads(default=8), head_dim=HEAD_DIM),
        *mlp(activation("silu")),
        *rms_norms(),
        Rotary(),
        LayerWindows(all_slide),
        tied_head(),
        SpecialTokens(bos=1, eos=2),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)

MINISTRAL3 = Family(
    name="ministral3",
    architecture="Ministral3ForCausalLM",
    items=(
        *sizes(default_context=262144),
        *attention(kv_heads=KeyValueHeads(default=8), head_dim=HEADS_OF_128),
        *mlp(activation("silu")),
        *rms_norms(default=1e-5),
        ScaledRotary(
            section={
                "rope_type": "yarn",
                "rope_theta": 1_000_000.0,
                "factor": 16.0,
                ORIGINAL: 16384,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale_all_dim": 1.0,
                "mscale": 1.0,
                BETA: 0.1,
            }
        ),
        Window(),
        tied_head(),
        SpecialTokens(bos=1, eos=2, pad=11),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)

CWM = Family(
    name="cwm",
    architecture="CwmForCausalLM",
    items=(
        *sizes(default_context=131072),
        *attention(kv_heads=KeyValueHeads(default=8), head_dim=HEADS_OF_128),
        *mlp(activation("silu")),
        *rms_norms(default=1e-5),
        Rotary(
            theta=1_000_000.0,
            section={
                "rope_type": "llama3",
                "rope_theta": 1_000_000.0,
                "factor": 16.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                ORIGINAL: 8192,
            },
        ),
        LayerWindows(three_of_four_slide, default=8192),
        Flag("mlp_bias", MLP_BIASES),
        tied_head(),
        SpecialTokens(bos=128000, eos=(128001, 128008, 128009)),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)
