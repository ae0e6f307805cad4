"""Changing a spec everywhere at once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.ir.spec import Attention, Layer, Mlp, Norm, Spec


READERS = ("mixer_norm", "mlp_norm")
POST_NORMS = ("mixer_post_norm", "mlp_post_norm")


def map_layers(spec: Spec, change: Callable[[Layer], Layer]) -> Spec:
    """The spec with every layer changed."""
    return replace(spec, layers=tuple(change(layer) for layer in spec.layers))


def map_mixers(spec: Spec, change: Callable[[Attention], Attention]) -> Spec:
    """The spec with every mixer changed."""
    return map_layers(spec, lambda layer: replace(layer, mixer=change(layer.mixer)))


def map_mlps(spec: Spec, change: Callable[[Mlp], Mlp]) -> Spec:
    """The spec with every MLP changed."""
    return map_layers(spec, lambda layer: replace(layer, mlp=change(layer.mlp)))


def map_readers(spec: Spec, change: Callable[[Norm], Norm]) -> Spec:
    """The spec with every norm that reads the residual stream changed."""
    changed = map_layers(spec, lambda layer: _changed(layer, READERS, change))
    return replace(changed, final_norm=change(spec.final_norm))


def map_norms(spec: Spec, change: Callable[[Norm], Norm]) -> Spec:
    """The spec with every norm changed: those that read the stream, post-norms, and those of queries and keys."""

    def in_mixer(mixer: Attention) -> Attention:
        qk = mixer.qk_norm
        return mixer if qk is None else replace(mixer, qk_norm=replace(qk, norm=change(qk.norm)))

    changed = map_layers(map_readers(spec, change), lambda layer: _changed(layer, POST_NORMS, change))
    return map_mixers(changed, in_mixer)


def _changed(layer: Layer, names: tuple[str, ...], change: Callable[[Norm], Norm]) -> Layer:
    changed = {name: change(norm) for name in names if (norm := getattr(layer, name)) is not None}
    return replace(layer, **changed)  # type: ignore[arg-type] # mypy cannot see which fields these are
