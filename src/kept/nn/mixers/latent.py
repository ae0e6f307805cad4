"""Latent attention (arXiv 2405.04434, section 2.1), expanded for many new tokens and absorbed for few.

Shapes: B batch, T new tokens, Y those of all heads, S keys, D width, H query heads, K key-value heads, N elements of a
key without position, R of the rotary key, V of a value, C of the latent, X a product of these.
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
from kept.nn.state import LatentCache

if TYPE_CHECKING:
    from kept.nn.sequence import SequenceContext
    from kept.nn.state import MixerState


class LatentAttentionModule(MixerModule[ir.LatentAttention]):
    """Attention whose keys and values are projections of a latent, as its spec defines it.

    Expanded: keys and values of all positions are computed from their latents. Absorbed: the key projection is applied
    to the queries and the value projection to the mixed latents, so that attention reads the cache itself. Both give
    the same but for rounding; the form with fewer operations is used.
    """

    def __init__(self, spec: ir.LatentAttention, width: int) -> None:
        super().__init__(spec, width)
        queries = spec.heads * spec.query_dim
        if spec.q_rank is None:
            self.q = nn.Linear(width, queries, bias=spec.q_bias)
        else:
            self.q_a = nn.Linear(width, spec.q_rank, bias=spec.q_bias)
            self.q_norm = _norm(spec.q_norm, spec.q_rank)
            self.q_b = nn.Linear(spec.q_rank, queries, bias=False)
        self.kv_a = nn.Linear(width, spec.cached_size, bias=spec.kv_bias)
        self.kv_norm = _norm(spec.kv_norm, spec.kv_rank)
        self.kv_b = UpProjection(spec.kv_rank, spec.kv_heads * (spec.nope_dim + spec.value_dim))
        self.o = nn.Linear(spec.heads * spec.value_dim, width, bias=spec.o_bias)
        self.scale = spec.query_dim**-0.5 if spec.scale is None else spec.scale

    @staticmethod
    def tables(spec: ir.LatentAttention) -> TableKeys:
        """The rotation of the rotary parts, and the causal mask."""
        return TableKeys(frozenset((rope, spec.rope_dim) for rope in spec.ropes), frozenset((None,)))

    def empty_state(self) -> LatentCache:
        """Return an empty cache of latents and rotary keys."""
        return LatentCache()

    def forward(self, x_BTD: Tensor, context: SequenceContext, state: MixerState | None = None) -> Tensor:
        """Attend from each token to those that it sees; returns (B, T, D)."""
        query_BHTX, row_B1TX = self._queries(x_BTD), self._rows(x_BTD)
        if self.spec.rope is not None:
            cos_sin = context.rotations[self.spec.rope, self.spec.rope_dim, x_BTD.dtype]
            query_BHTX, row_B1TX = (self._rotated(x, *cos_sin) for x in (query_BHTX, row_B1TX))
        if state is not None:
            assert isinstance(state, LatentCache)
            row_B1TX = state.append(row_B1TX)
        mask = context.masks[None]
        if mask is not None and absorbed_is_cheaper(self.spec, query_BHTX.shape[2], row_B1TX.shape[2]):
            mixed_BHTV = self._absorbed(query_BHTX, row_B1TX, mask)
        else:
            mixed_BHTV = self._expanded(query_BHTX, row_B1TX, mask)
        out: Tensor = self.o(mixed_BHTV.transpose(1, 2).flatten(2))
        return out

    def _queries(self, x_BTD: Tensor) -> Tensor:
        """Return the queries, (B, H, T, N + R)."""
        q_BTX = self.q(x_BTD) if self.spec.q_rank is None else self.q_b(self.q_norm(self.q_a(x_BTD)))
        q_BHTX: Tensor = q_BTX.unflatten(-1, (self.spec.heads, self.spec.query_dim)).transpose(1, 2)
        return q_BHTX

    def _rows(self, x_BTD: Tensor) -> Tensor:
        """Return what is cached, before rotation: the normalised latents and the rotary keys, (B, 1, T, C + R)."""
        latent_BTC, key_BTR = torch.split(self.kv_a(x_BTD), [self.spec.kv_rank, self.spec.rope_dim], dim=-1)
        return torch.cat((self.kv_norm(latent_BTC), key_BTR), dim=-1)[:, None]

    def _rotated(self, x_BHTX: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return vectors whose last R elements are rotated."""
        assert self.spec.rope is not None
        still, turned = torch.split(x_BHTX, [x_BHTX.shape[-1] - self.spec.rope_dim, self.spec.rope_dim], dim=-1)
        return torch.cat((still, rotate(turned, cos, sin, interleaved=self.spec.rope.interleaved)), dim=-1)

    def _expanded(self, query_BHTX: Tensor, row_B1SX: Tensor, mask: Tensor | None) -> Tensor:
        """Return the mixed values, (B, H, T, V), with keys and values of every position."""
        spec = self.spec
        latent_BSC, key_BSR = torch.split(row_B1SX[:, 0], [spec.kv_rank, spec.rope_dim], dim=-1)
        both_BKSX = self.kv_b(latent_BSC).unflatten(-1, (spec.kv_heads, -1)).transpose(1, 2)
        key_BKSN, value_BKSV = torch.split(both_BKSX, [spec.nope_dim, spec.value_dim], dim=-1)
        shared_BKSR = key_BSR[:, None].expand(-1, spec.kv_heads, -1, -1)
        return F.scaled_dot_product_attention(
            query_BHTX,
            torch.cat((key_BKSN, shared_BKSR), dim=-1),
            value_BKSV,
            attn_mask=mask,
            is_causal=mask is None,
            scale=self.scale,
            enable_gqa=spec.kv_heads != spec.heads,
        )

    def _absorbed(self, query_BHTX: Tensor, row_B1SX: Tensor, mask: Tensor) -> Tensor:
        """Return the mixed values, (B, H, T, V), with the cache as the one head of keys and values.

        The queries of all heads are the rows of one matrix, so the cache is read once for scores and once for values.
        """
        spec, heads, steps = self.spec, *query_BHTX.shape[1:3]
        query_BHTN, rotary_BHTR = torch.split(query_BHTX, [spec.nope_dim, spec.rope_dim], dim=-1)
        weight_KXC = self.kv_b.weight.view(spec.kv_heads, -1, spec.kv_rank)
        keys_KNC, values_KVC = torch.split(weight_KXC, [spec.nope_dim, spec.value_dim], dim=1)
        read_BHTC = self._by_group(query_BHTN, keys_KNC)
        reader_BYX = (torch.cat((read_BHTC, rotary_BHTR), dim=-1) * self.scale).flatten(1, 2)
        row_BSX = row_B1SX[:, 0]
        score_BHTS = (reader_BYX @ row_BSX.transpose(1, 2)).view(-1, heads, steps, row_BSX.shape[1]) + mask
        share_BYS = score_BHTS.softmax(dim=-1, dtype=_at_least_float32(score_BHTS)).to(row_BSX.dtype).flatten(1, 2)
        mixed_BYC = share_BYS @ row_BSX[..., : spec.kv_rank]
        return self._by_group(mixed_BYC.view(-1, heads, steps, spec.kv_rank), values_KVC.transpose(1, 2))

    def _by_group(self, x_BHTX: Tensor, weights_KXY: Tensor) -> Tensor:
        """Multiply the vectors of each head by the matrix of its key-value head."""
        batch, heads, steps, size = x_BHTX.shape
        grouped = x_BHTX.reshape(batch, self.spec.kv_heads, -1, steps, size)
        return (grouped @ weights_KXY[:, None]).reshape(batch, heads, steps, -1)


class UpProjection(nn.Module):
    """The projection from the latent to keys and values, whose weight the absorbed form reads in parts."""

    def __init__(self, rank: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., rank) to (..., size)."""
        return F.linear(x, self.weight)


def absorbed_is_cheaper(spec: ir.LatentAttention, new: int, keys: int) -> bool:
    """Return whether `new` tokens that see `keys` positions take fewer multiply-adds in the absorbed form.

    Expanding costs the projection of each position, absorbing that of each query and of each mixed latent.
    """
    projected = spec.kv_rank * (spec.nope_dim + spec.value_dim)
    expanded = keys * spec.kv_heads * projected + new * keys * spec.heads * (spec.query_dim + spec.value_dim)
    absorbed = new * spec.heads * projected + new * keys * spec.heads * (spec.cached_size + spec.kv_rank)
    return absorbed < expanded


def _norm(spec: ir.Norm | None, rank: int) -> nn.Module:
    return nn.Identity() if spec is None else NormModule(spec, (rank,))


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
