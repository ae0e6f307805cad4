"""The tokens of one forward pass: their positions, padding and documents, and the tables that mixers share.

Shapes: B batch (1 where all rows are equal), T tokens, S keys, R rotated dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING

import torch

from kept.nn.rope import cos_sin
from kept.nn.state import key_positions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from kept.ir.spec import Rope


@dataclass(frozen=True)
class TableKeys:
    """The tables that mixers read: rotary positions with their head sizes, and attention masks by window."""

    ropes: frozenset[tuple[Rope, int]] = frozenset()
    masks: frozenset[int | None] = frozenset()

    def __or__(self, other: TableKeys) -> TableKeys:
        """The tables of both."""
        return TableKeys(self.ropes | other.ropes, self.masks | other.masks)


@dataclass(frozen=True, eq=False)
class SequenceContext:
    """Positions, padding and documents of a batch, made once per forward pass and read by every layer.

    `past` tokens are in the decoding state. `positions_BT` counts from the beginning of the sequence, or of the
    document in packed rows; padding has position 0. `pads_B` counts the padding tokens at the left of each row.
    `documents_BT` numbers the documents of packed rows; a token sees only its own. `ends_BT` makes each row a tree of
    tokens in depth-first order: the descendants of token i are the tokens from i + 1 to `ends[i] - 1`, a token sees its
    ancestors and itself, and its position is its depth. `rotations` and `masks` are the
    tables that the mixers read; layers only look them up, so that they can be compiled.
    """

    past: int
    positions_BT: Tensor
    pads_B: Tensor | None = None
    documents_BT: Tensor | None = None
    ends_BT: Tensor | None = None
    rotations: Mapping[tuple[Rope, int, torch.dtype], tuple[Tensor, Tensor]] = field(default_factory=dict)
    masks: Mapping[int | None, Tensor | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        tokens_BT: Tensor,
        past: int = 0,
        pads_B: Tensor | None = None,
        documents_BT: Tensor | None = None,
        ends_BT: Tensor | None = None,
    ) -> SequenceContext:
        """Return the context of a batch of token ids, without tables. Padding, documents and trees exclude others."""
        assert documents_BT is None or (pads_B is None and past == 0), "packed rows are whole and padded by a document"
        assert ends_BT is None or (pads_B is None and documents_BT is None and past == 0), "a tree is a whole row"
        steps_T = torch.arange(past, past + tokens_BT.shape[1], device=tokens_BT.device)
        positions_BT = steps_T[None]
        if ends_BT is not None:
            positions_BT = _ancestors(ends_BT).sum(dim=-1) - 1
        elif documents_BT is not None:
            positions_BT = positions_BT - _starts(documents_BT)
        elif pads_B is not None:
            positions_BT = (positions_BT - pads_B[:, None]).clamp(min=0)
        return cls(past, positions_BT, pads_B, documents_BT, ends_BT)

    def with_tables(self, keys: TableKeys, dtype: torch.dtype) -> SequenceContext:
        """Return the context with the tables for layers that compute in `dtype`, or in autocast's if it is enabled."""
        device = self.positions_BT.device.type
        mixed = torch.is_autocast_enabled(device)
        # Under autocast a norm outputs the stream's dtype, or float32 if its gain is trained.
        dtypes = {dtype, torch.float32} if mixed else {dtype}
        rotations = {
            (rope, head_dim, to): cos_sin(rope, head_dim, self.positions_BT, to)
            for (rope, head_dim), to in product(keys.ropes, dtypes)
        }
        scores = torch.get_autocast_dtype(device) if mixed else dtype
        return replace(self, rotations=rotations, masks={w: self.mask(w, scores) for w in keys.masks})

    def mask(self, window: int | None, dtype: torch.dtype) -> Tensor | None:
        """Return what is added to attention scores, (B, 1, T, S): 0 for the keys that a token sees, else -inf.

        None stands for plain causal attention. The keys are those that a KV cache of this window returns. The table is
        additive because torch makes one of a boolean mask in every layer, and keeps each for the backward pass.
        """
        length = self.positions_BT.shape[1]
        plain = self.pads_B is None and self.documents_BT is None and self.ends_BT is None and self.past == 0
        if plain and (window is None or window >= length):
            return None
        visible = self._visible(window)
        return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))

    def _visible(self, window: int | None) -> Tensor:
        if self.ends_BT is not None:
            return _within(_ancestors(self.ends_BT), self.positions_BT, window)[:, None]
        device, end = self.positions_BT.device, self.past + self.positions_BT.shape[1]
        at_T = torch.arange(self.past, end, device=device)[:, None]
        keys_S = key_positions(self.past, self.positions_BT.shape[1], window, device)[None]
        seen_TS = keys_S <= at_T
        if window is not None:
            seen_TS &= keys_S > at_T - window
        if self.documents_BT is not None:
            return (seen_TS & (self.documents_BT[:, :, None] == self.documents_BT[:, None]))[:, None]
        if self.pads_B is None:
            return seen_TS[None, None]
        real_BTS = seen_TS[None] & (keys_S[None] >= self.pads_B[:, None, None])
        # A padding token sees itself: the softmax of an empty row is NaN.
        return (real_BTS | (keys_S == at_T)[None])[:, None]


def _starts(documents_BT: Tensor) -> Tensor:
    """The index in its row at which each token's document begins, (B, T)."""
    new_BT = torch.ones_like(documents_BT, dtype=torch.bool)
    new_BT[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    steps_T = torch.arange(documents_BT.shape[1], device=documents_BT.device)
    return (steps_T * new_BT).cummax(dim=1).values


def _ancestors(ends_BT: Tensor) -> Tensor:
    """Whether token k is an ancestor of token t or t itself, (B, T, S): k <= t < ends[k]."""
    steps_T = torch.arange(ends_BT.shape[1], device=ends_BT.device)
    return (steps_T[None, None] <= steps_T[None, :, None]) & (steps_T[None, :, None] < ends_BT[:, None])


def _within(seen_BTS: Tensor, positions_BT: Tensor, window: int | None) -> Tensor:
    """Return the keys that are seen and no more than `window - 1` positions before the query, (B, T, S)."""
    if window is None:
        return seen_BTS
    return seen_BTS & (positions_BT[:, None] > positions_BT[:, :, None] - window)
