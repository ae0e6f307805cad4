"""Queries, keys and values of one attention layer, and its weights as the truncation reads them.

Shapes: B batch, T tokens, D width, H query heads, G key-value heads, E head size, F rotated pairs, X width and one
element for the bias.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.ir.frequencies import frequencies
from kept.ir.spec import Attention
from kept.passes.latent_weights import pair_order

if TYPE_CHECKING:
    from torch import Tensor

    from kept.ir.program import Program


@dataclass(frozen=True)
class AttentionHeads:
    """The weights of an attention layer, in float32.

    `q_HEX`, `k_GEX` and `v_GEX` have their bias as the last column; elements of queries and keys are ordered as first
    members of the rotated pairs, second members, and the rest. `o_HDE` are the columns of the output projection of each
    head. `frequencies_F` are in radians per position, in float64; `temperature` multiplies rotated vectors.
    """

    spec: Attention
    q_HEX: Tensor
    k_GEX: Tensor
    v_GEX: Tensor
    o_HDE: Tensor
    frequencies_F: Tensor
    temperature: float

    @classmethod
    def load(cls, program: Program, layer: int) -> AttentionHeads:
        """Read the weights of a layer, whose mixer is attention with separate projections."""
        spec = program.spec.layers[layer].mixer
        at = f"layers.{layer}.mixer."
        assert isinstance(spec, Attention)
        assert spec.rope is not None
        places = torch.tensor(pair_order(spec))

        def heads(name: str, count: int) -> Tensor:
            weight = program.weights[f"{at}{name}.weight"].value()
            bias = program.weights.get(f"{at}{name}.bias")
            column = weight.new_zeros(len(weight)) if bias is None else bias.value()
            rows: Tensor = torch.cat((weight, column[:, None]), 1).unflatten(0, (count, spec.head_dim))
            return rows if name == "v" else rows[:, places]

        out = program.weights[f"{at}o.weight"].value()
        turning = frequencies(spec.rope, spec.head_dim)[: spec.rope.dims // 2]
        return cls(
            spec,
            heads("q", spec.heads),
            heads("k", spec.kv_heads),
            heads("v", spec.kv_heads),
            out.unflatten(1, (spec.heads, spec.head_dim)).transpose(0, 1).contiguous(),
            torch.tensor(turning, dtype=torch.float64),
            getattr(spec.rope.scaling, "temperature", 1.0),
        )

    @property
    def pairs(self) -> int:
        """Rotated pairs of a head."""
        return len(self.frequencies_F)

    @property
    def group(self) -> int:
        """Query heads that share a key-value head."""
        return self.spec.heads // self.spec.kv_heads

    @property
    def scale(self) -> float:
        """The factor on scores."""
        return self.spec.head_dim**-0.5 if self.spec.scale is None else self.spec.scale

    def projected(self, rows_KEX: Tensor, x_BTD: Tensor) -> Tensor:
        """Return the vectors of heads, (B, K, T, E)."""
        flat_BTX = F.linear(x_BTD, rows_KEX[..., :-1].flatten(0, 1), rows_KEX[..., -1].flatten())
        return flat_BTX.view(*x_BTD.shape[:2], *rows_KEX.shape[:2]).transpose(1, 2)

    def rotated(self, x_BKTE: Tensor) -> Tensor:
        """Return vectors of heads rotated to their positions."""
        half = self.pairs
        positions = torch.arange(x_BKTE.shape[2], dtype=torch.float64)
        return turned(x_BKTE, positions[:, None] * self.frequencies_F, half, self.temperature)

    def probabilities(self, q_BHTE: Tensor, k_BGTE: Tensor) -> Tensor:
        """Return causal attention, (B, H, T, T), of vectors that are not rotated yet."""
        return causal(self.rotated(q_BHTE), self.rotated(k_BGTE), self.scale)


def turned(x: Tensor, angles_TF: Tensor, half: int, temperature: float = 1.0) -> Tensor:
    """Return vectors (..., T, E) whose first `2 half` elements are rotated by angles in radians."""
    cos, sin = ((f(angles_TF) * temperature).to(x.dtype) for f in (torch.cos, torch.sin))
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat((a * cos - b * sin, b * cos + a * sin, rest), dim=-1)


def causal(q_BHTE: Tensor, k_BGTE: Tensor, scale: float) -> Tensor:
    """Return the attention of each token to itself and those before, (B, H, T, T)."""
    batch, heads, length, _ = q_BHTE.shape
    grouped = q_BHTE.unflatten(1, (k_BGTE.shape[1], -1)) * scale
    scores: Tensor = (grouped @ k_BGTE[:, :, None].transpose(-1, -2)).reshape(batch, heads, length, length)
    above = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores.masked_fill_(above, float("-inf")).softmax(-1)
