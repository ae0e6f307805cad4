"""Second moments and sensitivities of a layer's attention on calibration text, from which a truncation is computed.

Shapes as in `heads`. The sensitivity of the output to the score of query i and key j of a head is, to first order,
`omega_ij = p_ij^2 |W_o (v_j - vbar_i)|^2`, where vbar_i is the mixed value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from kept.compression.latent.heads import AttentionHeads


@dataclass(frozen=True)
class AttentionStatistics:
    """Second moments in float64, means over tokens.

    plain_NN: of keys (before rotation) and values of all heads. mixed_NN: of keys and values averaged by attention, a
    mean over query heads. queries_HEE: of queries before rotation. read_HEE: of queries weighted by the sum of their
    sensitivities over keys. turn_HF: complex, the mean of `exp(i f (i - j))` weighted by sensitivity. output: mean
    square length of the branch's output.
    """

    plain_NN: Tensor
    mixed_NN: Tensor
    queries_HEE: Tensor
    read_HEE: Tensor
    turn_HF: Tensor
    output: float


EVERY = 4
"""Every so many tokens of a row one is measured as a query; all are measured as keys."""


class AttentionSums:
    """Sums of the statistics of one layer over batches of its inputs."""

    def __init__(self, heads: AttentionHeads) -> None:
        self.heads, spec = heads, heads.spec
        size, both, h = spec.head_dim, 2 * spec.kv_size, spec.heads
        self.plain, self.mixed = (torch.zeros(both, both, dtype=torch.float64) for _ in range(2))
        self.queries, self.read = (torch.zeros(h, size, size, dtype=torch.float64) for _ in range(2))
        self.distances = torch.zeros(h, 0, dtype=torch.float64)
        self.tokens, self.measured, self.output = 0, 0, 0.0
        o = heads.o_HDE
        self.gram_HEE = o.transpose(1, 2) @ o

    @torch.inference_mode()
    def add(self, x_BTD: Tensor) -> None:
        """Add inputs (B, T, D)."""
        heads, group = self.heads, self.heads.group
        at = torch.arange(min(EVERY, x_BTD.shape[1]) - 1, x_BTD.shape[1], EVERY)
        q, k, v = (heads.projected(w, x_BTD) for w in (heads.q_HEX, heads.k_GEX, heads.v_GEX))
        p_BHST = heads.probabilities(q, k)[:, :, at]
        v_BHTE = v.repeat_interleave(group, 1)
        mixed_BHSE = p_BHST @ v_BHTE
        omega_BHST = self._sensitivities(p_BHST, v_BHTE, mixed_BHSE) * heads.scale**2
        self._add_distances(omega_BHST, at)
        q_BHSE = q[:, :, at]
        self.queries += _moment(q_BHSE)
        self.read += _moment(q_BHSE * omega_BHST.sum(-1, keepdim=True).sqrt())
        rows_BTN = torch.cat([part.transpose(1, 2).flatten(2) for part in (k, v)], 2)
        self.plain += _moment(rows_BTN[:, None])[0]
        self.mixed += _moment(p_BHST @ rows_BTN[:, None]).mean(0)
        out = torch.einsum("bhse,hde->bsd", mixed_BHSE, heads.o_HDE)
        self.output += float(out.double().square().sum())
        self.tokens += x_BTD.shape[0] * x_BTD.shape[1]
        self.measured += len(x_BTD) * len(at)

    def _sensitivities(self, p: Tensor, v_BHTE: Tensor, mixed_BHSE: Tensor) -> Tensor:
        v_gram, mixed_gram = v_BHTE @ self.gram_HEE, mixed_BHSE @ self.gram_HEE
        distance = (mixed_gram @ v_BHTE.transpose(-1, -2)).mul_(-2)
        distance += (v_gram * v_BHTE).sum(-1)[:, :, None] + (mixed_gram * mixed_BHSE).sum(-1)[..., None]
        return distance.clamp_(min=0).mul_(p).mul_(p)

    def _add_distances(self, omega_BHST: Tensor, at: Tensor) -> None:
        """Add the sensitivities by the distance of query and key."""
        length = omega_BHST.shape[-1]
        if length > self.distances.shape[1]:
            self.distances = torch.nn.functional.pad(self.distances, (0, length - self.distances.shape[1]))
        distance_ST = (at[:, None] - torch.arange(length)).clamp(min=0)
        summed = omega_BHST.sum(0).double()
        self.distances.scatter_add_(1, distance_ST.flatten().expand(len(summed), -1), summed.flatten(1))

    def result(self) -> AttentionStatistics:
        """Return the means."""
        positions = torch.arange(self.distances.shape[1], dtype=torch.float64)
        phase = torch.polar(torch.ones(()).double(), self.heads.frequencies_F[None] * positions[:, None])
        share = self.distances / self.distances.sum(1, keepdim=True).clamp(min=1e-300)
        n = self.measured
        return AttentionStatistics(
            self.plain / self.tokens,
            self.mixed / n,
            self.queries / n,
            self.read / n,
            share.to(phase.dtype) @ phase,
            self.output / n,
        )


def _moment(x_BHSE: Tensor) -> Tensor:
    x_HNE = x_BHSE.transpose(0, 1).flatten(1, 2)
    return (x_HNE.transpose(1, 2) @ x_HNE).double()
