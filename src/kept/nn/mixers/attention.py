"""Softmax attention with grouped key-value heads.

Shapes: B batch, T tokens, S keys, D width, H query heads, K key-value heads, E head size, X a multiple of E.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.ir import spec as ir
from kept.nn.mixers.mixer import MixerModule
from kept.nn.norm import NormModule
from kept.nn.rope import rotate
from kept.nn.sequence import TableKeys
from kept.nn.state import KVCache

if TYPE_CHECKING:
    from kept.nn.sequence import SequenceContext
    from kept.nn.state import MixerState


class AttentionModule(MixerModule[ir.Attention]):
    """Softmax attention with grouped key-value heads (arXiv 2305.13245), as its spec defines it."""

    def __init__(self, spec: ir.Attention, width: int) -> None:
        super().__init__(spec, width)
        self.sizes = (spec.query_size, spec.kv_size, spec.kv_size)
        if spec.fused:
            self.qkv = nn.Linear(width, sum(self.sizes), bias=spec.q_bias)
        else:
            self.q = nn.Linear(width, spec.query_size, bias=spec.q_bias)
            self.k = nn.Linear(width, spec.kv_size, bias=spec.k_bias)
            self.v = nn.Linear(width, spec.kv_size, bias=spec.v_bias)
        self.q_norm, self.k_norm = _qk_norm(spec, spec.heads), _qk_norm(spec, spec.kv_heads)
        self.o = nn.Linear(spec.query_size, width, bias=spec.o_bias)

    @staticmethod
    def tables(spec: ir.Attention) -> TableKeys:
        """Rotations of the heads, and the mask of the window."""
        return TableKeys(frozenset((rope, spec.head_dim) for rope in spec.ropes), frozenset((spec.window,)))

    def empty_state(self) -> KVCache:
        """Return an empty KV cache."""
        return KVCache(self.spec.window)

    def forward(self, x_BTD: Tensor, context: SequenceContext, state: MixerState | None = None) -> Tensor:
        """Attend from each token to those that it sees; returns (B, T, D)."""
        queries, keys, values = self._project(x_BTD)
        if self.spec.rope is not None:
            cos, sin = context.rotations[self.spec.rope, self.spec.head_dim, x_BTD.dtype]
            queries = rotate(queries, cos, sin, interleaved=self.spec.rope.interleaved)
            keys = rotate(keys, cos, sin, interleaved=self.spec.rope.interleaved)
        if self.spec.position_scale is not None:
            queries = queries * position_scale(self.spec.position_scale, context.positions_BT).to(queries.dtype)
        if state is not None:
            assert isinstance(state, KVCache)
            keys, values = state.append(keys, values)
        mixed_BHTE = self._attend(queries, keys, values, context.masks[self.spec.window])
        out: Tensor = self.o(mixed_BHTE.transpose(1, 2).flatten(2))
        return out

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        if self.spec.softcap is not None:
            scale = self.spec.head_dim**-0.5 if self.spec.scale is None else self.spec.scale
            return capped(queries, keys, values, mask, scale, self.spec.softcap)
        grouped = self.spec.kv_heads != self.spec.heads
        return F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=mask is None, scale=self.spec.scale, enable_gqa=grouped
        )

    def _project(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.spec.fused:
            q, k, v = self.qkv(x_BTD).split(self.sizes, dim=-1)
        else:
            q, k, v = self.q(x_BTD), self.k(x_BTD), self.v(x_BTD)
        return self._heads(q, self.q_norm), self._heads(k, self.k_norm), self._heads(v, None)

    def _heads(self, x_BTX: Tensor, norm: NormModule | None) -> Tensor:
        if norm is not None and self.spec.qk_norm is not None and self.spec.qk_norm.scope == "full":
            x_BTX, norm = norm(x_BTX), None
        x_BTHE = x_BTX.view(*x_BTX.shape[:2], -1, self.spec.head_dim)
        if norm is not None:
            x_BTHE = norm(x_BTHE)
        return x_BTHE.transpose(1, 2)


def position_scale(scale: ir.PositionScale, positions_BT: Tensor) -> Tensor:
    """Return the factor on the query at each position, (B, 1, T, 1), in float64."""
    periods = (positions_BT // scale.length).double()
    return (1 + scale.beta * torch.log1p(periods))[:, None, :, None]


def capped(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, cap: float) -> Tensor:
    """Attention with scores bounded as `cap tanh(score / cap)` (arXiv 2408.00118); causal if `mask` is None.

    Queries (B, H, T, E), keys and values (B, K, S, E), `mask` added to scores (B, H, T, S); returns (B, H, T, E).
    """
    group = queries.shape[1] // keys.shape[1]
    keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
    scores = cap * torch.tanh(queries @ keys.transpose(-1, -2) * (scale / cap))
    if mask is None:
        mask = torch.full(scores.shape[-2:], float("-inf"), dtype=scores.dtype, device=scores.device).triu(1)
    return (scores + mask).softmax(dim=-1) @ values


def _qk_norm(spec: ir.Attention, heads: int) -> NormModule | None:
    if spec.qk_norm is None:
        return None
    return NormModule(spec.qk_norm.norm, ir.qk_shape(spec.qk_norm, heads, spec.head_dim))
