"""Changing a spec everywhere at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.ir.spec import Attention, Layer, Mlp, Norm, Spec


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
    """The spec with every norm of the residual stream changed."""

    def in_layer(layer: Layer) -> Layer:
        second = None if layer.mlp_norm is None else change(layer.mlp_norm)
        return replace(layer, mixer_norm=change(layer.mixer_norm), mlp_norm=second)

    return replace(map_layers(spec, in_layer), final_norm=change(spec.final_norm))
