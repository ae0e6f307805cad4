"""Parity of two programs, measured on tokens: logit errors, KL, top-1 agreement, perplexity and layer errors.

Both programs run in lock-step, layer by layer, so neither has to fit in memory.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.nn.norm import normalise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kept.ir.spec import Norm, Spec
    from kept.verification.streamed import StreamedRun

    State = tuple[Tensor, Norm]
    """A residual stream, and the norm that reads it."""

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


def measure(
    reference: StreamedRun,
    candidates: Sequence[StreamedRun],
    tokens_BT: Tensor,
    progress: Callable[[int], None] | None = None,
    vocabulary: int | None = None,
) -> list[Parity]:
    """Compare each candidate with the reference on the same tokens.

    Layers beyond the reference's (a tail, say) run but are not compared; nor is what a copy reads, nor a logit beyond
    those of the first `vocabulary` tokens (None: all that both have). `progress` is called with layers done.
    """
    runs = [_watched(run, tokens_BT, progress) for run in (reference, *candidates)]
    common = min(run.program.spec.depth - len(run.copies) for run in (reference, *candidates))
    states: tuple[State, ...] = ()
    layers: list[list[float]] = [[] for _ in candidates]
    for states in islice(zip(*runs, strict=False), common + 1):
        wanted = as_read(*states[0])
        for errors, run, state in zip(layers, candidates, states[1:], strict=True):
            found = as_read(run.stream_map.undone(state[0].double()), state[1])
            errors.append(float((found - wanted).norm() / wanted.norm()))
    # Longer runs continue to their last layer.
    last, *finals = (deque((state, *run), maxlen=1).pop()[0] for run, state in zip(runs, states, strict=True))
    shared = min(run.program.spec.vocabulary for run in (reference, *candidates))
    return _compare(reference, last, candidates, finals, tokens_BT, layers, slice(vocabulary or shared))


def _watched(run: StreamedRun, tokens_BT: Tensor, progress: Callable[[int], None] | None) -> Iterator[State]:
    for place, state in enumerate(run.streams(tokens_BT)):
        if progress is not None and place:
            progress(1)
        if place not in run.copies:
            yield state, reading(run.program.spec, place)


def as_read(stream: Tensor, norm: Norm) -> Tensor:
    """Return the residual stream after the normalisation of the norm that reads it, in float64, without its gain."""
    return normalise(stream.double(), norm)


def reading(spec: Spec, place: int) -> Norm:
    """Return the norm that reads the residual stream before layer `place`, or before the head after the last layer."""
    return next((branch.norm for layer in spec.layers[place:] for branch in layer.branches), spec.final_norm)


def _compare(
    reference: StreamedRun,
    last_BTD: Tensor,
    candidates: Sequence[StreamedRun],
    finals: Sequence[Tensor],
    tokens_BT: Tensor,
    layers: list[list[float]],
    shared: slice,
) -> list[Parity]:
    sums = [_Sums() for _ in candidates]
    for row, tokens_T in enumerate(tokens_BT):
        wanted_TV = reference.logits(last_BTD[row])[:, shared]
        for run, final, total in zip(candidates, finals, sums, strict=True):
            found_TV = run.logits(final[row])[:, shared]
            for at in range(0, len(tokens_T), POSITIONS):
                some = slice(at, at + POSITIONS)
                total.add(wanted_TV[some].double(), found_TV[some].double(), tokens_T[at + 1 : at + POSITIONS + 1])
    return [total.parity(tuple(errors)) for total, errors in zip(sums, layers, strict=True)]


class _Sums:
    """Running totals over sequences."""

    def __init__(self) -> None:
        self.positions = self.predicted = 0
        self.squares = self.largest = self.absolute = self.kl = self.same = 0.0
        self.nll_reference = self.nll = 0.0

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
