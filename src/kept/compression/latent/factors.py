"""The factors of one truncated layer, and its attention computed from them.

Shapes: B batch, T tokens, X width and one element for the bias, H query heads, G key-value heads, E head size, N
elements of a query without position, S rotary slots, M = 2S, R rank of the latent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.compression.latent.heads import causal, turned

if TYPE_CHECKING:
    from torch import Tensor

    from kept.compression.latent.heads import AttentionHeads
    from kept.compression.latent.low_rank import RankedRows
    from kept.compression.latent.rotary import RotaryPart


@dataclass(frozen=True)
class LatentFactors:
    """The weights of a truncated layer in float32, without the constants of the latent's norm.

    `slots` has the frequency of each rotary slot by its number. The latent is `down_RX`, the rotary key `rotary_MX` of
    the input and a constant 1. query_HQE maps a head's query to its position-free and its rotary part, Q = N + M.
    key_GNR and value_HER read the latent, `o_HDE` is the output projection. `errors` are those of the branch's output
    before and after the refit, relative to its mean square; None without a refit.
    """

    slots: tuple[int, ...]
    rotary_MX: Tensor
    down_RX: Tensor
    query_HQE: Tensor
    key_GNR: Tensor
    value_HER: Tensor
    o_HDE: Tensor
    errors: tuple[float, float] | None = None

    @property
    def rank(self) -> int:
        """Size of the latent."""
        return len(self.down_RX)

    @property
    def nope_dim(self) -> int:
        """Elements of a query without position."""
        return self.key_GNR.shape[1]

    @property
    def output_HDR(self) -> Tensor:
        """The map from each head's mixed latent to the output."""
        return self.o_HDE @ self.value_HER

    def mixed(self, heads: AttentionHeads, x_BTD: Tensor) -> Tensor:
        """Return the latents that each head mixes by its attention, (B, H, T, R)."""
        ones_BTX = F.pad(x_BTD, (0, 1), value=1.0)
        latent_BTR, key_BTM = ones_BTX @ self.down_RX.T, ones_BTX @ self.rotary_MX.T
        query_BHTQ = heads.projected(heads.q_HEX, x_BTD) @ self.query_HQE.mT
        still_BHTN, rotary_BHTM = query_BHTQ.split((self.nope_dim, key_BTM.shape[-1]), -1)
        rotary_BHTM, key_B1TM = (self._turned(heads, part) for part in (rotary_BHTM, key_BTM[:, None]))
        key_BGTN = torch.einsum("btr,gnr->bgtn", latent_BTR, self.key_GNR)
        shared_BGTM = key_B1TM.expand(-1, key_BGTN.shape[1], -1, -1)
        queries, keys = torch.cat((still_BHTN, rotary_BHTM), -1), torch.cat((key_BGTN, shared_BGTM), -1)
        mixed_BHTR: Tensor = causal(queries, keys, heads.scale) @ latent_BTR[:, None]
        return mixed_BHTR

    def _turned(self, heads: AttentionHeads, x: Tensor) -> Tensor:
        frequencies_S = heads.frequencies_F[list(self.slots)]
        angles_TS = torch.arange(x.shape[-2], dtype=torch.float64)[:, None] * frequencies_S
        return turned(x, angles_TS, len(self.slots), heads.temperature)


def latent_rows(part: RotaryPart, size: int) -> Tensor:
    """Return the map from keys and values of all heads to the rows that the latent replaces: keys, then values.

    `size` is the number of elements of the values of all heads.
    """
    found: Tensor = torch.block_diag(part.rest_GNK.flatten(0, 1), torch.eye(size, dtype=torch.float64))
    return found


def factors(
    heads: AttentionHeads, part: RotaryPart, kept: tuple[int, ...], found: RankedRows, rank: int
) -> LatentFactors:
    """Return the factors of a layer of a rank."""
    spec = heads.spec
    keys_KX, values_KX = (rows.double().flatten(0, 1) for rows in (heads.k_GEX, heads.v_GEX))
    rows_NX = latent_rows(part, len(values_KX)) @ torch.cat((keys_KX, values_KX))
    up_NR = found.up_NN[:, :rank]
    key_NR, value_NR = up_NR.split((len(rows_NX) - len(values_KX), len(values_KX)))
    value_GER = value_NR.reshape(spec.kv_heads, spec.head_dim, rank)
    return LatentFactors(
        tuple(f for f, count in enumerate(kept) for _ in range(count)),
        (part.rotary_MK @ keys_KX).float(),
        (found.down_NN[:rank] @ rows_NX).float(),
        part.query_HQE.float(),
        key_NR.reshape(spec.kv_heads, part.nope_dim, rank).float(),
        value_GER.repeat_interleave(heads.group, 0).float(),
        heads.o_HDE,
    )
