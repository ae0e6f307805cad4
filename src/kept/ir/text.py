"""A spec in words, a line for each run of equal layers."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.spec import Head, Layer, Norm, Spec


def describe(spec: Spec) -> list[str]:
    """The spec, one line a part."""
    return [*_lines(spec)]


def _lines(spec: Spec) -> Iterator[str]:
    positions = "" if spec.positions is None else f", {spec.positions} learned positions"
    times = "" if spec.embedding_multiplier == 1 else f", times {spec.embedding_multiplier:g}"
    yield f"embedding: {spec.vocabulary} tokens x {spec.width}{times}{positions}; context {spec.context}"
    start = 0
    for layer, run in groupby(spec.layers):
        count = len([*run])
        where = f"layer {start}" if count == 1 else f"layers {start}-{start + count - 1}"
        yield f"{where}: {_layer(layer)}"
        start += count
    yield f"head: {_norm(spec.final_norm)}, {_head(spec.head)}"


def _head(head: Head) -> str:
    extras = (
        ("bias", head.bias),
        ("rows normalised", head.normalised),
        (f"times {head.multiplier:g}", head.multiplier != 1),
        (f"capped at {head.softcap:g}" if head.softcap else "", head.softcap is not None),
    )
    return ", ".join(["tied" if head.tied else "own matrix", *(word for word, has in extras if has)])


def _layer(layer: Layer) -> str:
    parts, before = [], None
    for branch in layer.branches:
        if branch.norm != before:
            parts.append(_norm(branch.norm))
        parts.append(branch.op.describe())
        before = branch.norm
    behind = next((branch.post_norm for branch in layer.branches if branch.post_norm is not None), None)
    if behind is not None:
        parts.append(f"{_norm(behind)} behind each part")
    if layer.residual_multiplier != 1:
        parts.append(f"parts times {layer.residual_multiplier:.4g}")
    if layer.parallel:
        parts.append("parallel residual" + (", one norm" if layer.shared_norm else ""))
    return ", ".join(parts)


def _norm(norm: Norm) -> str:
    name = {"layer": "LayerNorm", "rms": "RMSNorm", "none": "no norm"}[norm.kind]
    extras = [word for word, has in (("bias", norm.bias), ("no gain", not norm.gain and norm.kind != "none")) if has]
    if norm.offset:
        extras.append(f"gain + {norm.offset:g}")
    return f"{name}{' with ' + ', '.join(extras) if extras else ''}"
