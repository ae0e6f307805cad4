"""SmolLM3: Llama with layers without RoPE, which have the window if windows are on, and a tied head by default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.families.entries import ROTARY_BUFFERS, llama_entries
from kept.families.items import LAYER_TYPES, Flag, LayerWindows, Rotary, SpecialTokens
from kept.families.parts import activation, attention, mlp, rms_norms, sizes, tied_head
from kept.families.paths import ATTENTION, ATTENTION_BIASES, MLP_BIASES, layer_values
from kept.families.table import Family
from kept.ir.facts import ABSENT, PerLayer

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts

ROPE = f"{ATTENTION}rope"


@dataclass(frozen=True)
class RotatingLayers:
    """`no_rope_layers`: 1 for each layer *with* RoPE; by default every fourth is without. Comes after the rotation."""

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the rotation's facts, for the layers that have it."""
        rotates = rotating(config, facts)
        rotation = {path: value for path, value in facts.items() if path == ROPE or path.startswith(f"{ROPE}.")}
        without = {ROPE: None}
        return {
            path: PerLayer(tuple(value if rotated else without.get(path, ABSENT) for rotated in rotates))
            for path, value in rotation.items()
        }

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key."""
        return {"no_rope_layers": [int(rope is not None) for rope in layer_values(facts, ROPE)]}


def rotating(config: Config, facts: Facts) -> list[int]:
    """Return 1 for each layer with RoPE, 0 for the others."""
    depth, values = facts["depth"], config.get("no_rope_layers")
    if values is None:
        interval = config.size("no_rope_layer_interval", 4)
        return [int((i + 1) % interval != 0) for i in range(depth)]
    if (
        not isinstance(values, list)
        or len(values) < depth
        or not all(type(value) is int and value in {0, 1} for value in values)
    ):
        raise config.wrong("no_rope_layers", f"a list of {depth} of 0, 1")
    return values[:depth]


def slides_without_rope(config: Config, facts: Facts) -> list[str]:
    """Return the layer types: layers without RoPE have the window."""
    return [LAYER_TYPES[rotates == 0] for rotates in rotating(config, facts)]


SMOLLM3 = Family(
    name="smollm3",
    architecture="SmolLM3ForCausalLM",
    items=(
        *sizes(default_context=32768),
        *attention(),
        *mlp(activation("silu")),
        *rms_norms(),
        Rotary(theta=2_000_000.0),
        RotatingLayers(),
        LayerWindows(slides_without_rope, default=None, switched=True),
        Flag("attention_bias", ATTENTION_BIASES),
        Flag("mlp_bias", MLP_BIASES),
        tied_head(default=True),
        SpecialTokens(bos=128000, eos=128001, pad=128004),
    ),
    entries=llama_entries(),
    ignored=ROTARY_BUFFERS,
)
