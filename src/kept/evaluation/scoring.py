"""Token losses in nats and most likely tokens of a model on a text.

Shapes: B batch, T tokens, N positions, D width, V vocabulary.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.evaluation.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kept.nn.model import Model

    Progress = Callable[[int], None]

POSITIONS = 512
"""Number of positions whose logits are in memory at once: 200 MB in float32 for a vocabulary of 100,000."""

BATCH_TOKENS = 8192
"""Maximum number of tokens in a batch, unless one sequence is longer."""


@torch.inference_mode()
def score_hidden(model: Model, x_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss in nats of each target, float64 (N,), and the most likely token (N,), both on the CPU.

    `x_ND` is the output of the last layer.
    """
    nats, best = [], []
    for at in range(0, len(x_ND), POSITIONS):
        logits_NV = model.logits(x_ND[at : at + POSITIONS])
        wide_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
        nats.append(F.cross_entropy(wide_NV, targets_N[at : at + POSITIONS], reduction="none").double().cpu())
        best.append(logits_NV.argmax(dim=-1).cpu())
    return torch.cat(nats), torch.cat(best)


@torch.inference_mode()
def score_rows(model: Model, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss in nats and the most likely token for every token but the first of each row, (B, T - 1) each."""
    tokens_BT = tokens_BT.to(model.embedding.weight.device)
    hidden_BTD = model.hidden(tokens_BT)[:, :-1]
    nats_N, best_N = score_hidden(model, hidden_BTD.flatten(0, 1), tokens_BT[:, 1:].flatten())
    shape = hidden_BTD.shape[:2]
    return nats_N.view(shape), best_N.view(shape)


def windows(count: int, length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield windows over `count` tokens as (begin, first scored token, end). Each token except 0 is scored once.

    All windows have the same length; the last one overlaps its predecessor by more than `length - stride`. `stride` is
    less than `length`, because the first token of a window has no context.
    """
    assert 0 < stride < length
    first, end = 1, min(length, count)
    while first < count:
        yield max(0, end - length), first, end
        first, end = end, min(end + stride, count)


def score_sliding(
    model: Model,
    ids: Sequence[int],
    length: int,
    stride: int,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the losses in nats, float64 (T - 1,), and most likely tokens (T - 1,) of tokens 1, 2, ... of a text.

    Each token has at least `length - stride` tokens of context, except at the beginning of the text. `progress` is
    called with the number of tokens done. Each batch of windows is one step of the journal.
    """
    places = [*windows(len(ids), length, stride)]
    rows = torch.tensor([ids[begin:end] for begin, _, end in places])
    nats: list[float] = []
    best: list[int] = []
    batch, journal = max(1, BATCH_TOKENS // rows.shape[1]), journal or Journal()
    for at in range(0, len(places), batch):
        some = slice(at, at + batch)
        found, chosen = journal.take(partial(_windows, model, rows[some], places[some]))
        nats += found
        best += chosen
        if progress is not None:
            progress(len(found))
    return torch.tensor(nats, dtype=torch.float64), torch.tensor(best)


def _windows(model: Model, rows: Tensor, places: Sequence[tuple[int, int, int]]) -> list[list[float]]:
    """Return the losses and the most likely tokens of the scored tokens of some windows, concatenated."""
    pairs = [*zip(*score_rows(model, rows), places, strict=True)]
    nats = [found[first - begin - 1 :] for found, _, (begin, first, _) in pairs]
    best = [chosen[first - begin - 1 :] for _, chosen, (begin, first, _) in pairs]
    return [torch.cat(nats).tolist(), torch.cat(best).tolist()]
