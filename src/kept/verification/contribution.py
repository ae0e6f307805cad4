"""Contribution of layers: the KL divergence of a model without some layers from the whole model.

All variants run together, layer by layer: each weight is read once, and computations that variants share are done
once. Shapes: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.verification.streamed import StreamedRun

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kept.ir.program import Program
    from kept.nn.sequence import SequenceContext

    Streams = dict[frozenset[int], Tensor]
    """The residual stream (B, T, D) of each variant, by the layers left out so far."""

POSITIONS = 256
"""Number of positions whose logits are in memory at once, for two variants."""


@torch.inference_mode()
def losses(
    program: Program,
    without: Sequence[frozenset[int]],
    tokens_BT: Tensor,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """Return KL(all layers || without a set of layers) in nats per token, float32, for each set in `without`.

    `progress` is called with layers done, of `program.spec.depth`. The KL is 0 if the final streams are bit-identical.
    """
    run, wanted = StreamedRun(program, torch.float32), {frozenset[int](), *without}
    x_BTD, context = run.enter(tokens_BT)
    streams: Streams = {frozenset(): x_BTD}
    for layer in range(program.spec.depth):
        streams = _after(run, layer, streams, {frozenset(n for n in one if n <= layer) for one in wanted}, context)
        if progress is not None:
            progress(1)
    whole = streams[frozenset()]
    found = {one: _kl(run, whole, streams[one]) for one in {*without}}
    return [found[one] for one in without]


def _after(
    run: StreamedRun, layer: int, streams: Streams, wanted: set[frozenset[int]], context: SequenceContext
) -> Streams:
    """Return the streams after a layer. The variants that have the layer run through it as one batch."""
    having = sorted((one for one in wanted if layer not in one), key=sorted)
    batch = torch.cat([streams[one] for one in having])
    out = torch.split(run.block(layer)(batch, context), len(batch) // len(having))
    return {**dict(zip(having, out, strict=True)), **{one: streams[one - {layer}] for one in wanted if layer in one}}


def _kl(run: StreamedRun, whole_BTD: Tensor, found_BTD: Tensor) -> float:
    if torch.equal(whole_BTD, found_BTD):
        return 0.0
    total, both = 0.0, (torch.split(x_BTD.flatten(0, 1), POSITIONS) for x_BTD in (whole_BTD, found_BTD))
    for whole_ND, found_ND in zip(*both, strict=True):
        log_p, log_q = (F.log_softmax(run.logits(x_ND).double(), -1) for x_ND in (whole_ND, found_ND))
        total += float((log_p.exp() * (log_p - log_q)).sum())
    return total / whole_BTD[..., 0].numel()
