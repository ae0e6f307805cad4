"""Gemma 3: Gemma 2 with norms of queries and keys instead of caps, and another rotation in layers with a window."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kept.families.config import Config
from kept.families.entries import ROTARY_BUFFERS, attention_entries, llama_entries, qk_norm_entries
from kept.families.gemma import CAUSAL, GEMMA_HEAD_DIM, ROOT_OF_WIDTH
from kept.families.gemma2 import POST_NORM_ENTRIES, POST_NORMS
from kept.families.items import (
    LAYER_TYPES,
    Cap,
    Flag,
    KeyValueHeads,
    LayerWindows,
    Rotary,
    Scale,
    SpecialTokens,
)
from kept.families.parts import activation, attention, mlp, qk_rms_norm, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION, ATTENTION_BIASES, NORMS, layer_values
from kept.families.table import Family
from kept.ir.facts import ABSENT, across, at_layer, flatten

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.ir.facts import Facts

FULL, SLIDING = LAYER_TYPES

OLD_KEYS = {FULL: ("rope_theta", "rope_scaling"), SLIDING: ("rope_local_base_freq", None)}
"""Keys of base and scaling of each rotation in configs of transformers 4."""


def five_of_six_slide(config: Config, facts: Facts) -> list[str]:
    """Return the layer types: every sixth layer has no window, or as `sliding_window_pattern` says."""
    pattern = config.size("sliding_window_pattern", 6)
    return [LAYER_TYPES[(i + 1) % pattern != 0] for i in range(facts["depth"])]


@dataclass(frozen=True)
class TwoRotations:
    """A rotation of the layers without a window, and one of those with it. Comes after the windows.

    transformers 5 has a section for each layer type; transformers 4 has `rope_theta` and `rope_scaling` for the former,
    `rope_local_base_freq` for the latter, which it never scales.
    """

    full: Rotary = field(default_factory=lambda: Rotary(theta=1_000_000.0))
    sliding: Rotary = field(default_factory=lambda: Rotary(theta=10_000.0))

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the rotation of each layer."""
        ropes = {
            kind: rotary.read(_keys_of(config, kind), facts)[rotary.path]
            for kind, rotary in ((FULL, self.full), (SLIDING, self.sliding))
        }
        return _of_layers(self.full.path, [ropes[kind] for kind in layer_types(facts)])

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the keys of both forms, with the class's rotation for a type that no layer has."""
        sections: dict[str, Any] = {}
        for kind, rotary in ((FULL, self.full), (SLIDING, self.sliding)):
            layer = next((i for i, found in enumerate(layer_types(facts)) if found == kind), None)
            said = {} if layer is None else rotary.write({**at_layer(facts, layer), "depth": 1})
            sections[kind] = said.get("rope_parameters", {"rope_type": "default", "rope_theta": rotary.theta})
        scaling = {key: value for key, value in sections[FULL].items() if key != "rope_theta"}
        return {
            "rope_parameters": sections,
            "rope_theta": sections[FULL]["rope_theta"],
            "rope_scaling": None if scaling["rope_type"] == "default" else scaling,
            "rope_local_base_freq": sections[SLIDING]["rope_theta"],
        }


def layer_types(facts: Facts) -> list[str]:
    """Return the type of each layer: those with a window slide."""
    return [FULL if window is None else SLIDING for window in layer_values(facts, f"{ATTENTION}window")]


def _keys_of(config: Config, kind: str) -> Config:
    """Return the RoPE keys of the layers of one type, under the names of a family with one rotation.

    Raises CheckpointError for a section that is not one of the two types.
    """
    both = config.section("rope_parameters")
    if not both.keys.keys() <= {*LAYER_TYPES}:
        raise config.wrong("rope_parameters", "an object with the sections " + ", ".join(LAYER_TYPES))
    theta, scaling = OLD_KEYS[kind]
    section = {**both.section(kind).keys, **(config.section(scaling).keys if scaling else {})}
    return Config({"rope_parameters": section, "rope_theta": config.get(theta)}, config.where)


def _of_layers(path: str, ropes: Sequence[object]) -> Facts:
    """Return the facts of a rotation for each layer."""
    tables = [flatten(path, rope) for rope in ropes]
    return {key: across(table.get(key, ABSENT) for table in tables) for table in tables for key in table}


GEMMA3 = Family(
    name="gemma3_text",
    architecture="Gemma3ForCausalLM",
    items=(
        *sizes(default_context=131072),
        *attention(kv_heads=KeyValueHeads(default=4), head_dim=GEMMA_HEAD_DIM),
        ROOT_OF_WIDTH,
        *mlp(activation("gelu_pytorch_tanh", key="hidden_activation")),
        *rms_norms(norms=(*NORMS, *POST_NORMS), offset=1.0),
        qk_rms_norm("shared", offset=1.0),
        Scale("query_pre_attn_scalar", power=-0.5, default=256),
        Cap("attn_logit_softcapping", f"{ATTENTION}softcap"),
        Cap("final_logit_softcapping", "head.softcap"),
        LayerWindows(five_of_six_slide),
        TwoRotations(),
        Flag("attention_bias", ATTENTION_BIASES),
        CAUSAL,
        tied_head(default=True),
        SpecialTokens(bos=2, eos=1, pad=0),
    ),
    entries=llama_entries(norms=POST_NORM_ENTRIES, attention=(*attention_entries(), *qk_norm_entries())),
    ignored=ROTARY_BUFFERS,
)
