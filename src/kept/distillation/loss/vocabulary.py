"""A vocabulary, whole or split over ranks: sums, maxima and look-ups that do not care which.

A head whose rows are split (tensor parallelism) gives each rank the logits of its own tokens. Everything that a loss
needs of the others' is a number a token: the largest logit, the sum of exponentials, expectations, the logits of
named tokens. Shapes: R tokens, V this rank's part of the vocabulary, K named tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed
from torch.nn import functional as F  # noqa: N812 - torch's own convention

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class VocabularyShard:
    """The `size` tokens from `start` that this rank holds; all of them where there is no group.

    Methods that reduce work in place on what they are given, as collectives do.
    """

    start: int
    size: int
    group: ProcessGroup | None = None

    @classmethod
    def of(cls, size: int, group: ProcessGroup | None, device: torch.device) -> VocabularyShard:
        """Ask the group who holds what: ranks hold consecutive parts, of any sizes."""
        if group is None:
            return cls(0, size)
        sizes = torch.zeros(distributed.get_world_size(group), dtype=torch.long, device=device)
        rank = distributed.get_rank(group)
        sizes[rank] = size
        distributed.all_reduce(sizes, group=group)
        return cls(int(sizes[:rank].sum()), size, group)

    def sum(self, x: Tensor) -> Tensor:
        """The sum over ranks."""
        if self.group is not None:
            distributed.all_reduce(x, distributed.ReduceOp.SUM, group=self.group)
        return x

    def max(self, x: Tensor) -> Tensor:
        """The maximum over ranks."""
        if self.group is not None:
            distributed.all_reduce(x, distributed.ReduceOp.MAX, group=self.group)
        return x

    def log_softmax(self, logits_RV: Tensor) -> Tensor:
        """The log-probabilities of this rank's tokens, normalised over all."""
        if self.group is None:
            return F.log_softmax(logits_RV, dim=-1)
        shifted_RV = logits_RV - self.max(logits_RV.amax(-1, keepdim=True))
        return shifted_RV.sub_(self.sum(shifted_RV.exp().sum(-1, keepdim=True)).log())

    def gather(self, values_RV: Tensor, ids_RK: Tensor) -> Tensor:
        """The values of tokens named by their ids in the whole vocabulary, (R, K)."""
        if self.group is None:
            return values_RV.gather(-1, ids_RK)
        places_RK, here_RK = self._places(ids_RK)
        return self.sum(values_RV.gather(-1, places_RK).masked_fill(~here_RK, 0))

    def add(self, values_RV: Tensor, ids_RK: Tensor, what_RK: Tensor) -> Tensor:
        """Add to the values of named tokens, in place, where this rank holds them."""
        if self.group is None:
            return values_RV.scatter_add_(-1, ids_RK, what_RK)
        places_RK, here_RK = self._places(ids_RK)
        return values_RV.scatter_add_(-1, places_RK, what_RK.masked_fill(~here_RK, 0))

    def _places(self, ids_RK: Tensor) -> tuple[Tensor, Tensor]:
        places_RK = ids_RK - self.start
        return places_RK.clamp(0, self.size - 1), (places_RK >= 0) & (places_RK < self.size)
