"""Change every layer, operation or norm of a spec."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.ir.spec import Layer, Norm, Operation, Spec

    Kind = TypeVar("Kind", bound=Operation)


READERS = ("mixer_norm", "mlp_norm")
POST_NORMS = ("mixer_post_norm", "mlp_post_norm")


def map_layers(spec: Spec, change: Callable[[Layer], Layer]) -> Spec:
    """Return the spec with every layer changed."""
    return replace(spec, layers=tuple(change(layer) for layer in spec.layers))


def map_operations(spec: Spec, kind: type[Kind], change: Callable[[Kind], Operation]) -> Spec:
    """Return the spec with every operation of one kind changed; those of other kinds stay."""

    def changed(layer: Layer) -> Layer:
        ops = {branch.name: change(branch.op) for branch in layer.branches if isinstance(branch.op, kind)}
        return replace(layer, **ops)  # type: ignore[arg-type] # a branch's name is its field

    return map_layers(spec, changed)


def map_readers(spec: Spec, change: Callable[[Norm], Norm]) -> Spec:
    """Return the spec with every norm that reads the residual stream changed."""
    changed = map_layers(spec, lambda layer: _changed(layer, READERS, change))
    return replace(changed, final_norm=change(spec.final_norm))


def map_norms(spec: Spec, change: Callable[[Norm], Norm]) -> Spec:
    """Return the spec with every norm changed: those that read the stream, post-norms, and those in operations."""
    changed = map_layers(map_readers(spec, change), lambda layer: _changed(layer, POST_NORMS, change))
    return map_layers(changed, lambda layer: _with_inner_norms(layer, change))


def _with_inner_norms(layer: Layer, change: Callable[[Norm], Norm]) -> Layer:
    ops = {branch.name: branch.op.with_norms(change) for branch in layer.branches}
    return replace(layer, **ops)  # type: ignore[arg-type] # a branch's name is its field


def _changed(layer: Layer, names: tuple[str, ...], change: Callable[[Norm], Norm]) -> Layer:
    changed = {name: change(norm) for name in names if (norm := getattr(layer, name)) is not None}
    return replace(layer, **changed)  # type: ignore[arg-type] # mypy cannot see which fields these are
