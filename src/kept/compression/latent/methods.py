"""The bases that a method takes from a layer's statistics: rotary components, and the metric of the latent.

whitened: errors of keys cost what queries read of them, weighted by how much the output depends on it; errors of values
cost what they change in the output.
transmla: one real basis for all heads at each frequency, keys and values balanced by their norms (arXiv 2502.07864).
paper: the mean key of all heads, and weights alone (arXiv 2503.11132, arXiv 2505.17272).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kept.compression.latent.rotary import RotaryComponents, key_moments, whitened_components

if TYPE_CHECKING:
    from torch import Tensor

    from kept.compression.latent.heads import AttentionHeads
    from kept.compression.latent.rotary import RotaryPart
    from kept.compression.latent.settings import Method
    from kept.compression.latent.statistics import AttentionStatistics

PLAIN = 0.7
"""Part of the plain second moment of queries in their metric; the rest is weighted by sensitivity."""

AVERAGED = 0.5
"""Part of the moment of inputs averaged by attention; the rest is that of plain inputs."""

KEYS = 1.5
"""Factor on errors of keys against those of values. Scores are exponentiated, so first-order costs are too low."""


def rows_moment(heads: AttentionHeads, found: AttentionStatistics, method: Method) -> Tensor:
    """Return the second moment of keys and values with which a method measures errors, (N, N)."""
    if method == "whitened":
        return (1 - AVERAGED) * found.plain_NN + AVERAGED * found.mixed_NN
    if method == "transmla":
        return found.plain_NN
    rows_NX = torch.cat([rows.double().flatten(0, 1)[:, :-1] for rows in (heads.k_GEX, heads.v_GEX)])
    return rows_NX @ rows_NX.T


def components(heads: AttentionHeads, found: AttentionStatistics, method: Method) -> RotaryComponents:
    """Return the rotary components of a layer."""
    spec = heads.spec
    moment = rows_moment(heads, found, "transmla" if method == "paper" else method)
    moments_FGG = key_moments(moment, spec.kv_heads, spec.head_dim, heads.pairs)
    if method == "whitened":
        diagonal_HE = queries_metric(found).diagonal(dim1=1, dim2=2)
        energy_HF = (diagonal_HE[:, : heads.pairs] + diagonal_HE[:, heads.pairs : 2 * heads.pairs]) / 2
        return whitened_components(moments_FGG, energy_HF, found.turn_HF)
    still_HF = torch.ones_like(found.turn_HF)
    if method == "paper":
        return _mean_key(moments_FGG, still_HF)
    cost, basis = torch.linalg.eigh(moments_FGG.real)
    basis = basis.flip(-1).to(torch.complex128)
    return RotaryComponents(cost.flip(-1).clamp(min=0), basis.mH, basis, still_HF)


def _mean_key(moments_FGG: Tensor, turn_HF: Tensor) -> RotaryComponents:
    """Return the mean of all heads as the only component, which stands for the key of each."""
    ones = torch.ones_like(moments_FGG[:, :1])
    energy_F = moments_FGG.real.diagonal(dim1=1, dim2=2).sum(-1)
    return RotaryComponents(energy_F[:, None], ones / ones.shape[-1], ones.mT, turn_HF, rest=False)


def queries_metric(found: AttentionStatistics) -> Tensor:
    """Return what errors of keys cost for each query head, (H, E, E), in units of the output's square."""
    plain, read = (part.diagonal(dim1=1, dim2=2).sum() for part in (found.queries_HEE, found.read_HEE))
    return (1 - PLAIN) * found.read_HEE + PLAIN * (read / plain.clamp(min=1e-300)) * found.queries_HEE


def metrics(
    heads: AttentionHeads, found: AttentionStatistics, part: RotaryPart, moment_NN: Tensor, method: Method
) -> list[Tensor]:
    """Return the metric of the latent's rows in blocks: the position-free keys of each head, then its values."""
    spec = heads.spec
    if method == "whitened":
        query_HNE = part.query_HQE[:, : part.nope_dim]
        keys = _grouped(query_HNE @ queries_metric(found) @ query_HNE.mT, spec.kv_heads) * KEYS**2
        o_HDE = heads.o_HDE.double()
        return [*keys, *_grouped(o_HDE.mT @ o_HDE, spec.kv_heads)]
    key_weight = 1.0
    if method == "transmla":
        energy = moment_NN.diagonal()
        keys, values = energy[: -spec.kv_size].mean(), energy[-spec.kv_size :].mean()
        key_weight = float(values / keys.clamp(min=1e-300)) if part.nope_dim else 1.0
    same = [torch.eye(size, dtype=torch.float64) for size in (part.nope_dim, spec.head_dim)]
    return [*[key_weight * same[0]] * spec.kv_heads, *[same[1]] * spec.kv_heads]


def _grouped(parts_HXX: Tensor, groups: int) -> Tensor:
    return parts_HXX.view(groups, len(parts_HXX) // groups, *parts_HXX.shape[1:]).sum(1)
