"""The latent attention of a truncated layer: its spec and its weights, with the constants of the latent's norm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.compression.latent.heads import AttentionHeads
from kept.ir.tensors import InMemory
from kept.passes.latent_norm import GAIN, constant_coordinates
from kept.passes.latent_spec import query_factor, truncated
from kept.passes.replace_branches import BranchChoice
from kept.passes.to_latent import has_query_bias

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from kept.compression.latent.factors import LatentFactors
    from kept.ir.program import Program
    from kept.ir.tensors import Lazy


@dataclass(frozen=True)
class TruncatedLayer:
    """One layer's factors as weights. `query_latent`: queries have a bias, or will have one, and so a latent.

    `o_bias` is the bias of the output projection, which stays.
    """

    heads: AttentionHeads
    factors: LatentFactors
    eps: float
    query_latent: bool
    o_bias: Lazy | None

    @classmethod
    def of(cls, program: Program, layer: int, found: LatentFactors, eps: float) -> TruncatedLayer:
        """Return a layer of a program with its factors."""
        query_latent = has_query_bias(program.spec.layers[layer])
        o_bias = program.weights.get(f"layers.{layer}.mixer.o.bias")
        return cls(AttentionHeads.load(program, layer), found, eps, query_latent, o_bias)

    def choice(self, layer: int, dtype: str) -> BranchChoice:
        """Return the replacement of the layer's mixer, with weights of a declared dtype."""
        found = self.factors
        spec = truncated(
            self.heads.spec,
            found.slots,
            nope=max(1, found.nope_dim),
            rank=found.rank,
            eps=self.eps,
            query_latent=self.query_latent,
        )
        made: dict[str, Lazy] = {
            f"mixer.{name}": _in_memory(tensor, dtype) for name, tensor in self.weights(spec.query_dim)
        }
        if self.o_bias is not None:
            made["mixer.o.bias"] = self.o_bias
        return BranchChoice(layer, "mixer", spec, reused=made)

    def weights(self, query_dim: int) -> Iterator[tuple[str, Tensor]]:
        """Yield every weight but the bias of the output projection."""
        found = self.factors
        latent = _with_constants(found.down_RX)
        yield "kv_a.weight", torch.cat((latent[:, :-1], found.rotary_MX[:, :-1]))
        yield "kv_a.bias", torch.cat((latent[:, -1], found.rotary_MX[:, -1]))
        yield "kv_norm.gain", _gain(found.rank)
        key_GNR = F.pad(found.key_GNR, (0, 0, 0, max(1, found.nope_dim) - found.nope_dim))
        both_HXR = torch.cat((key_GNR.repeat_interleave(self.heads.group, 0), found.value_HER), 1)
        yield "kv_b.weight", F.pad(both_HXR, (0, len(latent) - found.rank)).flatten(0, 1)
        yield "o.weight", found.o_HDE.transpose(0, 1).flatten(1)
        yield from self._queries(query_factor(self.heads.spec, query_dim))

    def _queries(self, factor: float) -> Iterator[tuple[str, Tensor]]:
        maps_HQE = factor * self.factors.query_HQE
        if not self.factors.nope_dim:
            maps_HQE = F.pad(maps_HQE, (0, 0, 1, 0))
        if not self.query_latent:
            yield "q.weight", (maps_HQE @ self.heads.q_HEX[..., :-1]).flatten(0, 1)
            return
        latent = _with_constants(self.heads.q_HEX.flatten(0, 1))
        yield "q_a.weight", latent[:, :-1]
        yield "q_a.bias", latent[:, -1]
        yield "q_norm.gain", _gain(self.heads.spec.query_size)
        placed = torch.block_diag(*maps_HQE)
        yield "q_b.weight", F.pad(placed, (0, len(latent) - placed.shape[1]))


def _with_constants(rows_RX: Tensor) -> Tensor:
    """Return rows, whose last column is a bias, followed by rows of the constant coordinates."""
    constants = torch.tensor(constant_coordinates(len(rows_RX)))
    return torch.cat((rows_RX, F.pad(constants[:, None], (rows_RX.shape[1] - 1, 0))))


def _gain(used: int) -> Tensor:
    return F.pad(torch.full((used,), GAIN), (0, len(constant_coordinates(used))))


def _in_memory(tensor: Tensor, dtype: str) -> Lazy:
    return InMemory(tuple(tensor.shape), dtype, tensor.contiguous())
