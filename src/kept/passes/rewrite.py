"""Changing a spec everywhere at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.ir.spec import Attention, Layer, Mlp, Norm, Spec


NORMS = ("mixer_norm", "mixer_post_norm", "mlp_norm", "mlp_post_norm")
"""The norms of a layer, by their fields."""


def map_layers(spec: Spec, change: Callable[[Layer], Layer]) -> Spec:
    """The spec with every layer changed."""
    return replace(spec, layers=tuple(change(layer) for layer in spec.layers))


def map_mixers(spec: Spec, change: Callable[[Attention], Attention]) -> Spec:
    """The spec with every mixer changed."""
    return map_layers(spec, lambda layer: replace(layer, mixer=change(layer.mixer)))


def map_mlps(spec: Spec, change: Callable[[Mlp], Mlp]) -> Spec:
    """The spec with every MLP changed."""
    return map_layers(spec, lambda layer: replace(layer, mlp=change(layer.mlp)))


def map_norms(spec: Spec, change: Callable[[Norm], Norm]) -> Spec:
    """The spec with every norm before and behind a part of a layer changed, and the final one."""

    def in_layer(layer: Layer) -> Layer:
        changed = {name: change(norm) for name in NORMS if (norm := getattr(layer, name)) is not None}
        return replace(layer, **changed)

    return replace(map_layers(spec, in_layer), final_norm=change(spec.final_norm))
