"""Items of sliding windows: one for all layers, or some layers with and some without."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kept.families.paths import ATTENTION, first_value, layer_values
from kept.ir.facts import PerLayer

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.families.config import Config
    from kept.ir.facts import Facts

    LayerTypes = Callable[[Config, Facts], list[str]]

FULL, SLIDING = LAYER_TYPES = ("full_attention", "sliding_attention")
"""Values of `layer_types`."""


def _layer_type(*, slides: bool) -> str:
    return SLIDING if slides else FULL


def _window(config: Config, default: int | None) -> int | None:
    """Return the window; None for a null key, `default` for an absent one."""
    if not config.states("sliding_window"):
        return default
    return None if config.get("sliding_window") is None else config.size("sliding_window")


@dataclass(frozen=True)
class Window:
    """One sliding window for all layers, or null; `default` is the model class's if the key is absent."""

    default: int | None = None
    path: str = field(default=f"{ATTENTION}window")

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the fact. Raises CheckpointError if `layer_types`, which newer classes read, disagrees."""
        size = _window(config, self.default)
        types = [_layer_type(slides=size is not None)] * facts["depth"]
        if config.get("layer_types") not in (None, types):
            raise config.wrong("layer_types", f"{types[0]} for every layer, as sliding_window says")
        return {self.path: size}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key."""
        return {"sliding_window": first_value(facts, self.path)}


@dataclass(frozen=True)
class LayerWindows:
    """One window for the layers of type `sliding_attention`.

    `types` returns the layer types that the model class assumes without `layer_types`. `default` is its window if the
    key is absent. `switched`: no layer has a window unless `use_sliding_window` is true.
    """

    types: LayerTypes
    default: int | None = 4096
    switched: bool = False
    path: str = field(default=f"{ATTENTION}window")

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return one fact a layer. Raises CheckpointError if `layer_types` and `use_sliding_window` disagree."""
        types = self._types(config, facts)
        config.states("sliding_window")  # marks it as read: without the switch it has no effect
        if self.switched and not config.flag("use_sliding_window", default=False):
            if config.get("layer_types") is not None and SLIDING in types:
                raise config.wrong("use_sliding_window", f"true where layer_types has {SLIDING}")
            return {self.path: None}
        size = _window(config, self.default)
        values = tuple(size if kind == SLIDING else None for kind in types)
        return {self.path: values[0] if len(set(values)) == 1 else PerLayer(values)}

    def _types(self, config: Config, facts: Facts) -> list[str]:
        depth, types = facts["depth"], config.get("layer_types")
        if types is None:
            return self.types(config, facts)
        if not isinstance(types, list) or len(types) != depth or not all(t in LAYER_TYPES for t in types):
            raise config.wrong("layer_types", f"a list of {depth} of " + ", ".join(LAYER_TYPES))
        return types

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the keys. Classes without the switch need a size even if no layer has a window."""
        values = layer_values(facts, self.path)
        size = next((v for v in values if v is not None), None)
        types = [_layer_type(slides=v is not None) for v in values]
        if not self.switched:
            return {"sliding_window": size or self.default, "layer_types": types}
        return {"use_sliding_window": size is not None, "sliding_window": size, "layer_types": types}


def slides_from_max_window_layers(config: Config, facts: Facts) -> list[str]:
    """Return the layer types of Qwen2: the first `max_window_layers` layers have full attention."""
    start = config.number("max_window_layers", 28)
    return [_layer_type(slides=i >= start) for i in range(facts["depth"])]


@dataclass(frozen=True)
class LayeredWindow(LayerWindows):
    """The window of Qwen2: a switch, a size, and the first layer with a window or, in newer configs, `layer_types`."""

    types: LayerTypes = slides_from_max_window_layers
    switched: bool = True

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the keys."""
        values = layer_values(facts, self.path)
        start = next((i for i, v in enumerate(values) if v is not None), len(values))
        return {**super().write(facts), "max_window_layers": start}
