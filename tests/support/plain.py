"""The universal model once more, from the formulas of the spec's docstrings: one token, one head, one pair at a time.

Slow and obvious. Only the frequencies of scaled rotations are taken from `kept`; they have tests of their own.
"""

from __future__ import annotations

import cmath
import math
from typing import TYPE_CHECKING

import torch

from kept.ir import spec as ir
from kept.nn.rope import inverse_frequencies

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from kept.ir.program import Program

    Weights = Mapping[str, Tensor]


def plain_logits(program: Program, tokens: list[int]) -> Tensor:
    """Logits of one sequence, (T, V), in float64."""
    spec = program.spec
    w = {name: lazy.value("float64") for name, lazy in program.weights.items()}
    x = spec.embedding_multiplier * w["embedding.weight"][tokens]
    if spec.positions is not None:
        x = x + w["positions.weight"][: len(tokens)]
    for i, layer in enumerate(spec.layers):
        mine = {
            name.removeprefix(f"layers.{i}."): value for name, value in w.items() if name.startswith(f"layers.{i}.")
        }
        x = _layer(layer, mine, x)
    head = w["embedding.weight" if spec.head.tied else "head.weight"]
    if spec.head.normalised:
        head = torch.stack([row / math.sqrt(float(row @ row)) for row in head])
    logits = spec.head.multiplier * (_norm(spec.final_norm, w, "final_norm", x) @ head.T + w.get("head.bias", 0))
    if spec.head.softcap is None:
        return logits
    cap = spec.head.softcap
    return logits.clone().apply_(lambda number: cap * math.tanh(number / cap))


def _layer(layer: ir.Layer, w: Weights, x: Tensor) -> Tensor:
    mixed = x
    if layer.mixer is not None:
        first = _norm(layer.mixer_norm, w, "mixer_norm", x)
        attended = _norm(layer.mixer_post_norm, w, "mixer_post_norm", plain_attention(layer.mixer, w, first))  # type: ignore[arg-type]
        mixed = x + layer.residual_multiplier * attended
    if layer.mlp is None:
        return mixed
    assert isinstance(layer.mlp, ir.Mlp)
    read = x if layer.parallel else mixed
    second = first if layer.mlp_norm is None else _norm(layer.mlp_norm, w, "mlp_norm", read)
    return mixed + layer.residual_multiplier * _norm(
        layer.mlp_post_norm,
        w,
        "mlp_post_norm",
        _mlp(layer.mlp, w, second),
    )


def _norm(norm: ir.Norm | None, w: Weights, name: str, x: Tensor) -> Tensor:
    if norm is None:
        return x
    return torch.stack([_normed(norm, row, w.get(f"{name}.gain"), w.get(f"{name}.bias")) for row in x])


def _normed(norm: ir.Norm, x: Tensor, gain: Tensor | None, bias: Tensor | None) -> Tensor:
    if norm.kind == "layer":
        x = x - x.sum() / len(x)
    if norm.kind != "none":
        x = x / math.sqrt(float((x * x).sum()) / len(x) + norm.eps)
    x = x if gain is None else x * (norm.offset + gain)
    return x if bias is None else x + bias


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    """The projection `W x + b` of (T, in)."""
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


def plain_attention(mixer: ir.Attention, w: Weights, x: Tensor) -> Tensor:
    """Attention of one sequence (T, D), with weights named as in a layer, such as `mixer.q.weight`."""
    queries, keys, values = _heads(mixer, w, x)
    steps, size = len(x), mixer.head_dim
    mixed = x.new_zeros(steps, mixer.heads, size)
    scale = size**-0.5 if mixer.scale is None else mixer.scale
    for head in range(mixer.heads):
        group = head * mixer.kv_heads // mixer.heads
        for t in range(steps):
            oldest = 0 if mixer.window is None else max(0, t - mixer.window + 1)
            scores = [scale * float(queries[t, head] @ keys[s, group]) for s in range(oldest, t + 1)]
            if mixer.softcap is not None:
                scores = [mixer.softcap * math.tanh(score / mixer.softcap) for score in scores]
            weights = [math.exp(score - max(scores)) for score in scores]
            for s, weight in zip(range(oldest, t + 1), weights, strict=True):
                mixed[t, head] += weight / sum(weights) * values[s, group]
    return linear(w, "mixer.o", mixed.flatten(1))


def _heads(mixer: ir.Attention, w: Weights, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    size = mixer.head_dim
    if mixer.fused:
        fused = linear(w, "mixer.qkv", x)
        ends = (mixer.heads * size, (mixer.heads + mixer.kv_heads) * size)
        parts = [fused[:, : ends[0]], fused[:, ends[0] : ends[1]], fused[:, ends[1] :]]
    else:
        parts = [linear(w, f"mixer.{name}", x) for name in "qkv"]
    for i, name in enumerate(("q_norm", "k_norm")):
        parts[i] = _qk_normed(mixer, w, f"mixer.{name}", parts[i])
    q, k, v = (part.unflatten(-1, (-1, size)) for part in parts)
    return turned(mixer.rope, size, q), turned(mixer.rope, size, k), v


def _qk_normed(mixer: ir.Attention, w: Weights, name: str, x: Tensor) -> Tensor:
    if mixer.qk_norm is None:
        return x
    norm, scope = mixer.qk_norm.norm, mixer.qk_norm.scope
    gain, bias = w.get(f"{name}.gain"), w.get(f"{name}.bias")
    out = []
    for row in x:
        pieces = [row] if scope == "full" else list(row.split(mixer.head_dim))
        for h, piece in enumerate(pieces):
            own = [None if t is None else t[h] if scope == "own" else t for t in (gain, bias)]
            pieces[h] = _normed(norm, piece, *own)
        out.append(torch.cat(pieces))
    return torch.stack(out)


def turned(rope: ir.Rope | None, head_dim: int, x: Tensor) -> Tensor:
    """Each pair of dimensions as a complex number, times `temperature * exp(i * position * frequency)`.

    x is (T, heads, head_dim).
    """
    if rope is None:
        return x
    frequencies, temperature = inverse_frequencies(rope, head_dim, len(x))
    out = x.clone()
    for pair, frequency in enumerate(frequencies.tolist()):
        a, b = (2 * pair, 2 * pair + 1) if rope.interleaved else (pair, pair + len(frequencies))
        for position in range(len(x)):
            turn = temperature * cmath.exp(1j * position * frequency)
            for head in range(x.shape[1]):
                z = complex(float(x[position, head, a]), float(x[position, head, b])) * turn
                out[position, head, a], out[position, head, b] = z.real, z.imag
    return out


def _mlp(mlp: ir.Mlp, w: Weights, x: Tensor) -> Tensor:
    if mlp.gated and mlp.fused:
        both = linear(w, "mlp.gate_up", x)
        gate, up = both[:, : mlp.size], both[:, mlp.size :]
    else:
        gate, up = linear(w, "mlp.gate" if mlp.gated else "mlp.up", x), linear(w, "mlp.up", x)
    hidden = gate.clone().apply_(lambda number: activation(mlp.activation, number))
    return linear(w, "mlp.down", hidden * up if mlp.gated else hidden)


def activation(name: ir.Activation, x: float) -> float:
    """The activations by their definitions."""
    match name:
        case "silu":
            return x / (1 + math.exp(-x))
        case "gelu":
            return x * (1 + math.erf(x / math.sqrt(2))) / 2
        case "gelu_tanh":
            return x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
        case "relu":
            return max(x, 0.0)
        case "relu2":
            return max(x, 0.0) ** 2
