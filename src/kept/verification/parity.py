"""Parity of two programs, measured on tokens: logit errors, KL, top-1 agreement, perplexity and layer errors.

All programs run in lockstep, layer by layer, so that none has to fit in memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.nn.norm import normalise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.ir.spec import Norm, Spec
    from kept.verification.lockstep import Lane

POSITIONS = 32
"""Number of positions whose logits are compared at once: 20 MB in float64 for a large vocabulary."""


@dataclass(frozen=True)
class Parity:
    """Comparison of a candidate with a reference over all measured positions.

    Errors are absolute, of logits whose standard deviation is `logit_std`; `kl` is KL(reference || candidate) in nats
    per token; `top1` the fraction of positions with the same most likely token; `layers` the relative error of the
    normalised residual stream before the first layer and after each, with the candidate's stream map undone.
    """

    tokens: int
    logit_std: float
    max_logit_error: float
    mean_logit_error: float
    kl: float
    top1: float
    perplexity_reference: float
    perplexity: float
    layers: tuple[float, ...]

    @property
    def identical(self) -> bool:
        """Whether all logits are equal."""
        return self.max_logit_error == 0


def measure(pairs: Sequence[tuple[Lane, Lane]], vocabulary: int | None = None) -> list[Parity]:
    """Compare the second lane of each pair with the first, on the positions that both have.

    Lanes run in the order in which they are first named, so a twin is named before the lane that shares its layers.
    Layers beyond those that all lanes have (a tail, say) run but are not compared; nor is what a copy reads, nor a
    logit beyond those of the first `vocabulary` tokens (None: all that all lanes have).
    """
    lanes = [*dict.fromkeys(lane for pair in pairs for lane in pair)]
    layers: list[list[float]] = [[] for _ in pairs]
    for step in range(min(lane.steps for lane in lanes) + 1):
        if step:
            for lane in lanes:
                lane.step()
        for errors, pair in zip(layers, pairs, strict=True):
            errors.append(_stream_error(*pair))
    for lane in lanes:
        lane.finish()
    shared = min(lane.run.program.spec.vocabulary for lane in lanes)
    return _compare(pairs, layers, slice(vocabulary or shared))


def _stream_error(reference: Lane, candidate: Lane) -> float:
    """Return the relative error of the candidate's residual stream, as the next norm reads it."""
    rows, positions = _common(reference, candidate)
    wanted_BTD, found_BTD = (lane.x_BTD[:rows, :positions] for lane in (reference, candidate))
    wanted = as_read(wanted_BTD, _next_norm(reference))
    found = as_read(candidate.run.stream_map.undone(found_BTD.double()), _next_norm(candidate))
    return float((found - wanted).norm() / wanted.norm())


def _next_norm(lane: Lane) -> Norm:
    return reading(lane.run.program.spec, lane.place)


def _common(reference: Lane, candidate: Lane) -> tuple[int, int]:
    """Return the numbers of rows and of positions that both lanes have."""
    sizes = reference.tokens_BT.shape, candidate.tokens_BT.shape
    return min(rows for rows, _ in sizes), min(positions for _, positions in sizes)


def as_read(stream: Tensor, norm: Norm) -> Tensor:
    """Return the residual stream after the normalisation of the norm that reads it, in float64, without its gain."""
    return normalise(stream.double(), norm)


def reading(spec: Spec, place: int) -> Norm:
    """Return the norm that reads the residual stream before layer `place`, or before the head after the last layer."""
    return next((branch.norm for layer in spec.layers[place:] for branch in layer.branches), spec.final_norm)


def _compare(pairs: Sequence[tuple[Lane, Lane]], layers: list[list[float]], shared: slice) -> list[Parity]:
    sums = [_Sums() for _ in pairs]
    for row in range(max(max(len(lane.tokens_BT) for lane in pair) for pair in pairs)):
        logits: dict[Lane, Tensor] = {}
        for pair, total in zip(pairs, sums, strict=True):
            rows, positions = _common(*pair)
            if row < rows:
                wanted_TV, found_TV = (_logits(lane, row, logits)[:positions, shared] for lane in pair)
                total.add_row(wanted_TV, found_TV, pair[0].tokens_BT[row, :positions])
    return [total.parity(tuple(errors)) for total, errors in zip(sums, layers, strict=True)]


def _logits(lane: Lane, row: int, known: dict[Lane, Tensor]) -> Tensor:
    """Return the logits of a row of tokens. Lanes with one stream and one head share them."""
    if lane not in known:
        twin = lane.twin if lane.has_twin_s_logits else None
        known[lane] = lane.logits(row) if twin is None else _logits(twin, row, known)
    return known[lane]


class _Sums:
    """Running totals over sequences."""

    def __init__(self) -> None:
        self.positions = self.predicted = 0
        self.squares = self.largest = self.absolute = self.kl = self.same = 0.0
        self.nll_reference = self.nll = 0.0

    def add_row(self, wanted_TV: Tensor, found_TV: Tensor, tokens_T: Tensor) -> None:
        """Add the logits of a sequence of tokens."""
        for at in range(0, len(tokens_T), POSITIONS):
            some = slice(at, at + POSITIONS)
            self.add(wanted_TV[some].double(), found_TV[some].double(), tokens_T[at + 1 : at + POSITIONS + 1])

    def add(self, wanted_TV: Tensor, found_TV: Tensor, next_N: Tensor) -> None:
        """Add the logits of some positions; `next_N` are the tokens that follow them, one fewer at the end."""
        error = (found_TV - wanted_TV).abs()
        log_p, log_q = F.log_softmax(wanted_TV, dim=-1), F.log_softmax(found_TV, dim=-1)
        self.positions += wanted_TV.shape[0]
        self.squares += float(wanted_TV.var(dim=-1, correction=0).sum())
        self.largest = max(self.largest, float(error.max())) if not bool(error.isnan().any()) else math.nan
        self.absolute += float(error.mean(dim=-1).sum())
        self.kl += float((log_p.exp() * (log_p - log_q)).sum())
        self.same += float((wanted_TV.argmax(-1) == found_TV.argmax(-1)).sum())
        self.predicted += len(next_N)
        self.nll_reference += float(F.nll_loss(log_p[: len(next_N)], next_N, reduction="sum"))
        self.nll += float(F.nll_loss(log_q[: len(next_N)], next_N, reduction="sum"))

    def parity(self, layers: tuple[float, ...]) -> Parity:
        """Return the means over all positions."""
        n, predicted = self.positions, max(1, self.predicted)
        return Parity(
            tokens=n,
            logit_std=math.sqrt(self.squares / n),
            max_logit_error=self.largest,
            mean_logit_error=self.absolute / n,
            kl=self.kl / n,
            top1=self.same / n,
            perplexity_reference=_exp(self.nll_reference / predicted),
            perplexity=_exp(self.nll / predicted),
            layers=layers,
        )


def _exp(nats: float) -> float:
    """Return the exponential; Inf if it overflows."""
    return float(torch.tensor(nats, dtype=torch.float64).exp())
