"""Rotary components: a basis of the keys of all key-value heads at one frequency, ordered by what dropping costs.

A rotated pair of elements is a complex number that is turned by `exp(i f position)`. At one frequency the keys of all
G heads are a complex vector, and any complex matrix that multiplies it commutes with the rotation. So a basis may be
chosen for each frequency, and its leading components kept.

A dropped component is evaluated without position: `exp(i f (i - j))` is replaced by its mean mu, weighted by the
sensitivity of the output. With a_g the mean square of the queries that read head g, times `1 - |mu|^2`, and C the
second moment of the keys, the components are the eigenvectors of `a^1/2 C a^1/2`, and the eigenvalues are what
dropping costs.

Shapes: F frequencies, G key-value heads, H query heads, C components, E head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

FLOOR = 1e-6
"""Smallest weight of a head, as a part of the mean weight: a basis must be invertible."""


@dataclass(frozen=True)
class RotaryComponents:
    """The components of each frequency in falling order of cost, complex.

    encode_FCG times the keys of a frequency are the components, decode_FGC times the components are the keys. turn_HF
    replaces the rotation of what is dropped. `rest`: what kept components leave of their keys is position-free; else it
    is lost.
    """

    cost_FC: Tensor
    encode_FCG: Tensor
    decode_FGC: Tensor
    turn_HF: Tensor
    rest: bool = True


def key_moments(moment_NN: Tensor, heads: int, size: int, pairs: int) -> Tensor:
    """Return the complex second moments of the keys at each frequency, (F, G, G).

    `moment_NN` is that of the keys of all heads, whose elements are first members of pairs, second members, the rest.
    """
    keys_GEGE = moment_NN[: heads * size, : heads * size].view(heads, size, heads, size)
    first, second = slice(pairs), slice(pairs, 2 * pairs)

    def same_pair(rows: slice, columns: slice) -> Tensor:
        return keys_GEGE[:, rows, :, columns].diagonal(dim1=1, dim2=3).permute(2, 0, 1)

    real = same_pair(first, first) + same_pair(second, second)
    return torch.complex(real, same_pair(second, first) - same_pair(first, second))


def whitened_components(moments_FGG: Tensor, energy_HF: Tensor, turn_HF: Tensor) -> RotaryComponents:
    """Return the components. `energy_HF` is the mean square of a query's pairs, as an error of the keys costs."""
    lost_HF = energy_HF * (1 - turn_HF.abs().square()).clamp(min=0)
    weight_FG = lost_HF.unflatten(0, (moments_FGG.shape[1], -1)).sum(1).T
    floor = max(FLOOR * float(weight_FG.mean()), torch.finfo(torch.float64).tiny)
    root_FG = weight_FG.clamp(min=floor).sqrt()
    scaled_FGG = moments_FGG * root_FG[:, :, None] * root_FG[:, None]
    cost, basis = torch.linalg.eigh(scaled_FGG)
    cost, basis = cost.flip(-1).clamp(min=0), basis.flip(-1)
    return RotaryComponents(cost, basis.mH * root_FG[:, None], basis / root_FG[..., None], turn_HF)


@dataclass(frozen=True)
class RotaryPart:
    """Maps of queries and keys to their rotary and position-free parts, for a choice of components, in float64.

    S slots; N elements of a query without position. rotary_MK: from the keys of all heads (K) to the shared rotary key,
    first members of all slots and then second members (M). rest_GNK: from these keys to the position-free keys of each
    head. query_HQE: from a head's query to its position-free part (N) and its rotary part (M).
    """

    rotary_MK: Tensor
    rest_GNK: Tensor
    query_HQE: Tensor

    @property
    def nope_dim(self) -> int:
        """Elements of a query without position."""
        return self.rest_GNK.shape[1]


def rotary_part(components: RotaryComponents, kept: tuple[int, ...], size: int, temperature: float) -> RotaryPart:
    """Return the maps for `kept[f]` components of each frequency, of heads of `size` elements."""
    pairs, heads = components.cost_FC.shape[0], components.decode_FGC.shape[1]
    group_H = torch.arange(len(components.turn_HF)) // (len(components.turn_HF) // heads)
    slots = [(f, c) for f, count in enumerate(kept) for c in range(count)]
    still = [f for f, count in enumerate(kept) if count < (heads if components.rest else 1)]
    encode_SGF = torch.zeros(len(slots), heads, pairs, dtype=torch.complex128)
    query_HSF = torch.zeros(len(group_H), len(slots), pairs, dtype=torch.complex128)
    for s, (f, c) in enumerate(slots):
        encode_SGF[s, :, f] = components.encode_FCG[f, c]
        query_HSF[:, s, f] = components.decode_FGC[f, group_H, c].conj()
    rest_GNHF = torch.zeros(heads, len(still), heads, pairs, dtype=torch.complex128)
    turn_HNF = torch.zeros(len(group_H), len(still), pairs, dtype=torch.complex128)
    for n, f in enumerate(still):
        kept_GG = components.decode_FGC[f, :, : kept[f]] @ components.encode_FCG[f, : kept[f]]
        rest_GNHF[:, n, :, f] = torch.eye(heads) - kept_GG
        turn_HNF[:, n, f] = components.turn_HF[:, f] * temperature**2
    unrotated = torch.eye(size, dtype=torch.float64)[2 * pairs :]
    own = torch.eye(heads, dtype=torch.float64)[:, None, :, None] * unrotated[None, :, None]
    return RotaryPart(
        as_real(encode_SGF, size).flatten(-2),
        torch.cat(
            (as_real(rest_GNHF.flatten(0, 1), size).unflatten(0, (2, heads, -1)).transpose(0, 1).flatten(1, 2), own), 1
        ).flatten(2),
        torch.cat(
            (as_real_maps(turn_HNF, size), unrotated.expand(len(group_H), -1, -1), as_real_maps(query_HSF, size)), 1
        ),
    )


def as_real(map_MGF: Tensor, size: int) -> Tensor:
    """Return maps of complex keys (M, G, F) as real maps (2M, G, E): of first members, second members and the rest."""
    real, imag = map_MGF.real, map_MGF.imag
    rows = torch.cat((torch.cat((real, -imag), -1), torch.cat((imag, real), -1)))
    return torch.nn.functional.pad(rows, (0, size - rows.shape[-1]))


def as_real_maps(map_HMF: Tensor, size: int) -> Tensor:
    """Return the same for each head: (H, M, F) to (H, 2M, E)."""
    return as_real(map_HMF.transpose(0, 1), size).transpose(0, 1)
