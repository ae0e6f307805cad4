"""SmolLM3: Llama in which some layers do not rotate; where windows are on, those slide. A tied head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.items import LAYER_TYPES, Flag, LayerWindows, Number, Size, SpecialTokens, by_layer
from kept.families.llama import (
    ATTENTION_BIASES,
    DECODER,
    ENTRIES,
    GATED,
    HEAD_DIM,
    MLP_BIASES,
    NORM_EPS,
    RMS_NORMS,
    ROTARY_BUFFERS,
)
from kept.families.rotary import Rotary
from kept.families.table import ATTENTION, Family
from kept.ir.facts import ABSENT, PerLayer

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts

ROPE = f"{ATTENTION}rope"


@dataclass(frozen=True)
class RotatingLayers:
    """`no_rope_layers`: 1 where a layer does rotate; without it every fourth does not. Comes after the rotation."""

    def read(self, config: Config, known: Facts) -> Facts:
        """The rotation's facts, for the layers that have it."""
        turns = rotating(config, known)
        rotation = {path: value for path, value in known.items() if path == ROPE or path.startswith(f"{ROPE}.")}
        nothing = {ROPE: None}
        return {
            path: PerLayer(tuple(value if turn else nothing.get(path, ABSENT) for turn in turns))
            for path, value in rotation.items()
        }

    def write(self, table: Facts) -> dict[str, Any]:
        """Facts to key."""
        return {"no_rope_layers": [int(tag is not None) for tag in by_layer(table, ROPE)]}


def rotating(config: Config, known: Facts) -> list[int]:
    """1 for each layer that rotates, 0 for others."""
    depth, turns = known["depth"], config.get("no_rope_layers")
    if turns is None:
        interval = config.size("no_rope_layer_interval", 4)
        return [int((i + 1) % interval != 0) for i in range(depth)]
    if (
        not isinstance(turns, list)
        or len(turns) < depth
        or not all(type(turn) is int and turn in {0, 1} for turn in turns)
    ):
        raise config.wrong("no_rope_layers", f"a list of {depth} of 0, 1")
    return turns[:depth]


def slides_without_rotation(config: Config, known: Facts) -> list[str]:
    """Layers that do not rotate have the window."""
    return [LAYER_TYPES[turn == 0] for turn in rotating(config, known)]


SMOLLM3 = Family(
    name="smollm3",
    architecture="SmolLM3ForCausalLM",
    items=(
        *DECODER[:3],
        Size("max_position_embeddings", "context", default=32768),
        *DECODER[4:],
        HEAD_DIM,
        *GATED,
        RMS_NORMS,
        Number("rms_norm_eps", NORM_EPS, default=1e-6),
        Rotary(theta=2_000_000.0),
        RotatingLayers(),
        LayerWindows(slides_without_rotation, default=None, switched=True),
        Flag("attention_bias", ATTENTION_BIASES),
        Flag("mlp_bias", MLP_BIASES),
        Flag("tie_word_embeddings", ("head.tied",), default=True),
        SpecialTokens(bos=128000, eos=128001, pad=128004),
    ),
    entries=ENTRIES,
    ignored=ROTARY_BUFFERS,
)
