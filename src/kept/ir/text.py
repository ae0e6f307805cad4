"""A spec in words, a line for each run of equal layers."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.spec import Attention, Layer, Mlp, Norm, Rope, Spec


def describe(spec: Spec) -> list[str]:
    """The spec, one line a part."""
    return [*_lines(spec)]


def _lines(spec: Spec) -> Iterator[str]:
    positions = "" if spec.positions is None else f", {spec.positions} learned positions"
    yield f"embedding: {spec.vocabulary} tokens x {spec.width}{positions}; context {spec.context}"
    start = 0
    for layer, run in groupby(spec.layers):
        count = len([*run])
        where = f"layer {start}" if count == 1 else f"layers {start}-{start + count - 1}"
        yield f"{where}: {_layer(layer)}"
        start += count
    head = "tied" if spec.head.tied else "own matrix"
    yield f"head: {_norm(spec.final_norm)}, {head}{', bias' if spec.head.bias else ''}"


def _layer(layer: Layer) -> str:
    parts = [_norm(layer.mixer_norm), _attention(layer.mixer)]
    if layer.mlp_norm is not None and layer.mlp_norm != layer.mixer_norm:
        parts.append(_norm(layer.mlp_norm))
    parts.append(_mlp(layer.mlp))
    if layer.parallel:
        parts.append("parallel residual" + (", one norm" if layer.mlp_norm is None else ""))
    return ", ".join(parts)


def _norm(norm: Norm) -> str:
    name = {"layer": "LayerNorm", "rms": "RMSNorm"}[norm.kind]
    extras = [word for word, has in (("bias", norm.bias), ("no gain", not norm.gain)) if has]
    if norm.offset:
        extras.append(f"gain + {norm.offset:g}")
    return f"{name}{' with ' + ', '.join(extras) if extras else ''}"


def _attention(mixer: Attention) -> str:
    shared = "" if mixer.kv_heads == mixer.heads else f" / {mixer.kv_heads} key-value"
    parts = [f"attention {mixer.heads}{shared} heads x {mixer.head_dim}"]
    biased = "".join(n for n in "qkvo" if getattr(mixer, f"{n}_bias"))
    extras = (
        (f"biases {biased}", bool(biased)),
        ("fused qkv", mixer.fused),
        (f"window {mixer.window}", mixer.window is not None),
        ("query-key norm", mixer.qk_norm is not None),
    )
    parts += [word for word, has in extras if has]
    parts.append("no rotation" if mixer.rope is None else _rope(mixer.rope, mixer.head_dim))
    return " ".join(parts[:1]) + " (" + ", ".join(parts[1:]) + ")"


def _rope(rope: Rope, head_dim: int) -> str:
    turned = "" if rope.dims == head_dim else f" on {rope.dims} of {head_dim}"
    scaling = "" if rope.scaling is None else f", {type(rope.scaling).__name__.lower()}"
    return f"rope theta {rope.theta:g}{turned}{scaling}{', interleaved' if rope.interleaved else ''}"


def _mlp(mlp: Mlp) -> str:
    names = ("gate", "up", "down") if mlp.gated else ("up", "down")
    biased = [n for n in names if getattr(mlp, f"{n}_bias")]
    bias = f" (biases {' '.join(biased)})" if biased else ""
    return f"{'gated' if mlp.gated else 'plain'} {mlp.activation} MLP {mlp.size}{bias}"
