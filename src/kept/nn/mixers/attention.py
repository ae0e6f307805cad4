"""Grouped-query attention over the residual stream.

Shapes: B batch, T tokens, S keys, D width, H query heads, K key-value heads, E head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.ir.spec import qk_shape
from kept.nn.norm import NormModule
from kept.nn.rope import cos_sin, rotate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kept.ir import spec as ir
    from kept.nn.state import KVCache


class AttentionModule(nn.Module):
    """Softmax attention as its spec says: grouped heads, biases, rotation, query-key norms, a window."""

    def __init__(self, spec: ir.Attention, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.sizes = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim, spec.kv_heads * spec.head_dim)
        if spec.fused:
            self.qkv = nn.Linear(width, sum(self.sizes), bias=spec.q_bias)
        else:
            self.q = nn.Linear(width, self.sizes[0], bias=spec.q_bias)
            self.k = nn.Linear(width, self.sizes[1], bias=spec.k_bias)
            self.v = nn.Linear(width, self.sizes[2], bias=spec.v_bias)
        self.q_norm, self.k_norm = _qk_norm(spec, spec.heads), _qk_norm(spec, spec.kv_heads)
        self.o = nn.Linear(self.sizes[0], width, bias=spec.o_bias)

    def forward(self, x_BTD: Tensor, where: SequenceContext, cache: KVCache | None) -> Tensor:
        """Mix along the sequence; returns (B, T, D)."""
        queries, keys, values = self._project(x_BTD)
        if self.spec.rope is not None:
            cos, sin = where.angles(self.spec.rope, self.spec.head_dim, x_BTD.dtype)
            queries = rotate(queries, cos, sin, interleaved=self.spec.rope.interleaved)
            keys = rotate(keys, cos, sin, interleaved=self.spec.rope.interleaved)
        if cache is not None:
            keys, values = cache.append(keys, values)
        mixed_BHTE = self._attend(queries, keys, values, where)
        out: Tensor = self.o(mixed_BHTE.transpose(1, 2).flatten(2))
        return out

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor, where: SequenceContext) -> Tensor:
        scale = self.spec.head_dim**-0.5 if self.spec.scale is None else self.spec.scale
        if self.spec.softcap is not None:
            mask = where.mask(keys.shape[2], self.spec.window)
            return capped(queries, keys, values, mask, scale, self.spec.softcap)
        mask = where.scores(keys.shape[2], self.spec.window, queries.dtype)
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


def capped(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None, scale: float, cap: float) -> Tensor:
    """Attention with scores bounded as `cap tanh(score / cap)` (arXiv 2408.00118), causal where there is no mask."""
    group = queries.shape[1] // keys.shape[1]
    keys, values = (x.repeat_interleave(group, dim=1) for x in (keys, values))
    scores = cap * torch.tanh(queries @ keys.transpose(-1, -2) * (scale / cap))
    if mask is None:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1) @ values


def _qk_norm(spec: ir.Attention, heads: int) -> NormModule | None:
    if spec.qk_norm is None:
        return None
    return NormModule(spec.qk_norm.norm, qk_shape(spec.qk_norm, heads, spec.head_dim))


@dataclass
class SequenceContext:
    """Where a batch's tokens stand: `past` tokens are cached, the first `pads_B` of each row are padding.

    `documents_BT` numbers the documents of packed rows: each begins at position 0 and sees no other.
    """

    batch: int
    length: int
    past: int
    pads_B: Tensor | None
    device: torch.device
    documents_BT: Tensor | None = None

    def __post_init__(self) -> None:
        """Number the tokens, padding not counted."""
        self._angles: dict[tuple[ir.Rope, int, torch.dtype], tuple[Tensor, Tensor]] = {}
        self._masks: dict[tuple[int, int | None], Tensor | None] = {}
        self._scores: dict[tuple[int, int | None, torch.dtype], Tensor | None] = {}
        steps_T = torch.arange(self.past, self.past + self.length, device=self.device)
        pads_B = torch.zeros(1, dtype=torch.long, device=self.device) if self.pads_B is None else self.pads_B
        self.ids_BT = (steps_T[None] - pads_B[:, None]).clamp(min=0)
        if self.documents_BT is not None:
            assert self.past == 0, "packed rows are whole"
            assert self.pads_B is None, "packed rows are padded by documents of their own"
            self.ids_BT = steps_T - _starts(self.documents_BT)
            if bool((self.documents_BT[:, :1] == self.documents_BT).all()):
                self.documents_BT = None  # a document a row: causal order says it all

    @classmethod
    def of(
        cls, tokens_BT: Tensor, past: int = 0, pads_B: Tensor | None = None, documents_BT: Tensor | None = None
    ) -> SequenceContext:
        """The places of a batch of token ids."""
        return cls(tokens_BT.shape[0], tokens_BT.shape[1], past, pads_B, tokens_BT.device, documents_BT)

    def prepare(self, layers: Iterable[ir.Attention], dtypes: Iterable[torch.dtype]) -> None:
        """Make all tables now: a compiled layer can look them up, but not make them."""
        for spec, dtype in product(layers, dtypes):
            if spec.rope is not None:
                self.angles(spec.rope, spec.head_dim, dtype)
            self.mask(self.past + self.length, spec.window)

    def angles(self, rope: ir.Rope, head_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and sines for these tokens, shared by all layers with the same rotation."""
        key = (rope, head_dim, dtype)
        if key not in self._angles:
            self._angles[key] = cos_sin(rope, head_dim, self.ids_BT, dtype)
        return self._angles[key]

    def mask(self, keys: int, window: int | None) -> Tensor | None:
        """Which keys each token sees, (B, 1, T, S); None where plain causal order says it all."""
        if (keys, window) not in self._masks:
            self._masks[keys, window] = self._make_mask(keys, window)
        return self._masks[keys, window]

    def scores(self, keys: int, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """The mask as what is added to scores, 0 or minus infinity.

        Made once for all layers: given truth values torch makes it in each, and keeps each for the backward.
        """
        if (keys, window, dtype) not in self._scores:
            mask = self.mask(keys, window)
            made = None if mask is None else torch.zeros(mask.shape, dtype=dtype, device=mask.device)
            self._scores[keys, window, dtype] = None if made is None else made.masked_fill_(~mask, float("-inf"))  # type: ignore[operator]
        return self._scores[keys, window, dtype]

    def _make_mask(self, keys: int, window: int | None) -> Tensor | None:
        padded = self.pads_B is not None or self.documents_BT is not None
        if not padded and self.past == 0 and (window is None or window >= keys):
            return None
        at_T = torch.arange(self.past, self.past + self.length, device=self.device)[:, None]
        keys_S = torch.arange(keys, device=self.device)[None]
        seen_TS = keys_S <= at_T
        if window is not None:
            seen_TS &= keys_S > at_T - window
        if self.documents_BT is not None:
            return (seen_TS & (self.documents_BT[:, :, None] == self.documents_BT[:, None]))[:, None]
        if self.pads_B is None:
            return seen_TS[None, None]
        real_BTS = seen_TS[None] & (keys_S[None] >= self.pads_B[:, None, None])
        # A padding token sees itself: an empty row would make the softmax 0/0.
        return (real_BTS | (keys_S == at_T)[None])[:, None]


def _starts(documents_BT: Tensor) -> Tensor:
    """Where in its row the document of each token begins, (B, T)."""
    new_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    new_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    steps_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    return (steps_T * new_BT).cummax(dim=1).values
