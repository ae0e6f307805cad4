"""From a spec to every weight it has: name, shape, and the space each axis lives in.

Passes are written against spaces and against who reads and who writes the residual stream, not against names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.spec import Attention, Layer, Mlp, Norm, QkNorm, Spec


class Space(StrEnum):
    """What an axis of a weight indexes."""

    VOCABULARY = "vocabulary"
    POSITIONS = "positions"
    RESIDUAL = "residual"
    QUERIES = "query heads"
    KEYS = "key-value heads"
    FUSED = "fused heads"
    CHANNELS = "channels"
    HEAD = "head"


@dataclass(frozen=True)
class Slot:
    """A weight's shape and the space of each axis."""

    shape: tuple[int, ...]
    axes: tuple[Space, ...]


Slots = dict[str, Slot]


def slots(spec: Spec) -> Slots:
    """Every weight of the spec, in the order the model uses them."""
    return dict(_all(spec))


def _all(spec: Spec) -> Iterator[tuple[str, Slot]]:
    yield "embedding.weight", Slot((spec.vocabulary, spec.width), (Space.VOCABULARY, Space.RESIDUAL))
    if spec.positions is not None:
        yield "positions.weight", Slot((spec.positions, spec.width), (Space.POSITIONS, Space.RESIDUAL))
    for i, layer in enumerate(spec.layers):
        for name, slot in layer_slots(layer, spec.width):
            yield f"layers.{i}.{name}", slot
    yield from _norm("final_norm", spec.final_norm, spec.width, Space.RESIDUAL)
    if not spec.head.tied:
        yield "head.weight", Slot((spec.vocabulary, spec.width), (Space.VOCABULARY, Space.RESIDUAL))
    if spec.head.bias:
        yield "head.bias", Slot((spec.vocabulary,), (Space.VOCABULARY,))


def layer_slots(layer: Layer, width: int) -> Iterator[tuple[str, Slot]]:
    """The weights of one layer, named within it."""
    yield from _norm("mixer_norm", layer.mixer_norm, width, Space.RESIDUAL)
    yield from _attention(layer.mixer, width)
    yield from _norm("mixer_post_norm", layer.mixer_post_norm, width, Space.RESIDUAL)
    yield from _norm("mlp_norm", layer.mlp_norm, width, Space.RESIDUAL)
    yield from _mlp(layer.mlp, width)
    yield from _norm("mlp_post_norm", layer.mlp_post_norm, width, Space.RESIDUAL)


def _attention(mixer: Attention, width: int) -> Iterator[tuple[str, Slot]]:
    queries, keys = mixer.heads * mixer.head_dim, mixer.kv_heads * mixer.head_dim
    if mixer.fused:
        yield from _linear("mixer.qkv", queries + 2 * keys, Space.FUSED, width, Space.RESIDUAL, bias=mixer.q_bias)
    else:
        yield from _linear("mixer.q", queries, Space.QUERIES, width, Space.RESIDUAL, bias=mixer.q_bias)
        yield from _linear("mixer.k", keys, Space.KEYS, width, Space.RESIDUAL, bias=mixer.k_bias)
        yield from _linear("mixer.v", keys, Space.KEYS, width, Space.RESIDUAL, bias=mixer.v_bias)
    if mixer.qk_norm is not None:
        yield from _qk_norm("mixer.q_norm", mixer.qk_norm, mixer.heads, mixer.head_dim)
        yield from _qk_norm("mixer.k_norm", mixer.qk_norm, mixer.kv_heads, mixer.head_dim)
    yield from _linear("mixer.o", width, Space.RESIDUAL, queries, Space.QUERIES, bias=mixer.o_bias)


def _mlp(mlp: Mlp, width: int) -> Iterator[tuple[str, Slot]]:
    if mlp.gated and mlp.fused:
        yield from _linear("mlp.gate_up", 2 * mlp.size, Space.CHANNELS, width, Space.RESIDUAL, bias=mlp.up_bias)
    else:
        if mlp.gated:
            yield from _linear("mlp.gate", mlp.size, Space.CHANNELS, width, Space.RESIDUAL, bias=mlp.gate_bias)
        yield from _linear("mlp.up", mlp.size, Space.CHANNELS, width, Space.RESIDUAL, bias=mlp.up_bias)
    yield from _linear("mlp.down", width, Space.RESIDUAL, mlp.size, Space.CHANNELS, bias=mlp.down_bias)


def _linear(
    name: str, out: int, out_space: Space, into: int, in_space: Space, *, bias: bool
) -> Iterator[tuple[str, Slot]]:
    yield f"{name}.weight", Slot((out, into), (out_space, in_space))
    if bias:
        yield f"{name}.bias", Slot((out,), (out_space,))


def _norm(name: str, norm: Norm | None, size: int, space: Space) -> Iterator[tuple[str, Slot]]:
    if norm is not None and norm.gain:
        yield f"{name}.gain", Slot((size,), (space,))
    if norm is not None and norm.bias:
        yield f"{name}.bias", Slot((size,), (space,))


def _qk_norm(name: str, qk: QkNorm, heads: int, head_dim: int) -> Iterator[tuple[str, Slot]]:
    shape = qk_shape(qk, heads, head_dim)
    axes = (Space.HEAD,) * len(shape)
    if qk.norm.gain:
        yield f"{name}.gain", Slot(shape, axes)
    if qk.norm.bias:
        yield f"{name}.bias", Slot(shape, axes)


def norms(spec: Spec) -> Iterator[tuple[str, Norm, tuple[int, ...]]]:
    """Every norm there is, of queries and keys too: its name, itself, and its gain's shape."""
    for i, layer in enumerate(spec.layers):
        for name in ("mixer_norm", "mixer_post_norm", "mlp_norm", "mlp_post_norm"):
            norm = getattr(layer, name)
            if norm is not None:
                yield f"layers.{i}.{name}", norm, (spec.width,)
        qk = layer.mixer.qk_norm
        if qk is not None:
            yield f"layers.{i}.mixer.q_norm", qk.norm, qk_shape(qk, layer.mixer.heads, layer.mixer.head_dim)
            yield f"layers.{i}.mixer.k_norm", qk.norm, qk_shape(qk, layer.mixer.kv_heads, layer.mixer.head_dim)
    yield "final_norm", spec.final_norm, (spec.width,)


def qk_shape(qk: QkNorm, heads: int, head_dim: int) -> tuple[int, ...]:
    """The shape of a query or key norm's gain."""
    return {"shared": (head_dim,), "own": (heads, head_dim), "full": (heads * head_dim,)}[qk.scope]


@dataclass(frozen=True)
class NormReaders:
    """A norm of the residual stream and the projections that read what it puts out."""

    norm: str
    value: Norm
    projections: tuple[str, ...]


def readings(spec: Spec) -> Iterator[NormReaders]:
    """Every reader of the residual stream: each norm with the projections behind it."""
    for i, layer in enumerate(spec.layers):
        at = f"layers.{i}."
        mixer, mlp = mixer_readers(layer.mixer), mlp_readers(layer.mlp)
        if layer.mlp_norm is None:
            yield NormReaders(f"{at}mixer_norm", layer.mixer_norm, tuple(at + name for name in mixer + mlp))
        else:
            yield NormReaders(f"{at}mixer_norm", layer.mixer_norm, tuple(at + name for name in mixer))
            yield NormReaders(f"{at}mlp_norm", layer.mlp_norm, tuple(at + name for name in mlp))
    yield NormReaders("final_norm", spec.final_norm, ("head",))


def mixer_readers(mixer: Attention) -> tuple[str, ...]:
    """The mixer's projections that read the residual stream."""
    return ("mixer.qkv",) if mixer.fused else ("mixer.q", "mixer.k", "mixer.v")


def mlp_readers(mlp: Mlp) -> tuple[str, ...]:
    """The MLP's projections that read the residual stream."""
    if not mlp.gated:
        return ("mlp.up",)
    return ("mlp.gate_up",) if mlp.fused else ("mlp.gate", "mlp.up")


def writers(spec: Spec) -> Iterator[tuple[str, int]]:
    """Every matrix and bias that writes to the residual stream, with the axis along which it does.

    What a post-norm puts out is not theirs any more; who changes writers asks for models without post-norms.
    """
    for name, slot in slots(spec).items():
        if name in {"embedding.weight", "positions.weight"}:
            yield name, 1
        elif not name.startswith("head.") and _writes(name, slot):
            yield name, 0


def silent(layer: Layer, width: int) -> dict[str, float]:
    """The weights of a layer, named within it, that make it add nothing to the residual stream, and their one value.

    A part is silenced where its output is a weight times something: by the gain of the norm behind it, or without one
    by what writes. A bias of such a norm goes too.
    """
    out: dict[str, float] = {}
    for part, norm in (("mixer", layer.mixer_post_norm), ("mlp", layer.mlp_post_norm)):
        names = {
            name for name, slot in layer_slots(layer, width) if name.startswith(f"{part}.") and _writes(name, slot)
        }
        if norm is not None and norm.gain:
            out[f"{part}_post_norm.gain"] = -norm.offset
        else:
            out |= dict.fromkeys(names, 0.0)
        if norm is not None and norm.bias:
            out[f"{part}_post_norm.bias"] = 0.0
    return out


def _writes(name: str, slot: Slot) -> bool:
    """Whether a weight that is no table and no head writes to the residual stream along its first axis."""
    return slot.axes[0] is Space.RESIDUAL and not name.endswith((".gain", "norm.bias"))
