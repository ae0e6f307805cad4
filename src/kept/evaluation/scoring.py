"""What each token costs a model, and which token it would have chosen.

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
"""Positions whose logits are held at a time: in float32 a vocabulary of 100,000 takes 200 MB."""

BATCH_TOKENS = 8192
"""Tokens that run at a time, where one sequence does not have more."""


@torch.inference_mode()
def read_out(model: Model, x_ND: Tensor, targets_N: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of each target, in float64 on the CPU, and the likeliest token, from the last layer's output."""
    nats, best = [], []
    for at in range(0, len(x_ND), POSITIONS):
        logits_NV = model.logits(x_ND[at : at + POSITIONS])
        wide_NV = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
        nats.append(F.cross_entropy(wide_NV, targets_N[at : at + POSITIONS], reduction="none").double().cpu())
        best.append(logits_NV.argmax(dim=-1).cpu())
    return torch.cat(nats), torch.cat(best)


@torch.inference_mode()
def scored(model: Model, tokens_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Nats of every token but the first of each row, and the token chosen in its place, (B, T - 1) each."""
    tokens_BT = tokens_BT.to(model.embedding.weight.device)
    hidden_BTD = model.hidden(tokens_BT)[:, :-1]
    nats_N, best_N = read_out(model, hidden_BTD.flatten(0, 1), tokens_BT[:, 1:].flatten())
    shape = hidden_BTD.shape[:2]
    return nats_N.view(shape), best_N.view(shape)


def windows(count: int, length: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Windows over `count` tokens as (begin, first token that is scored, end): each token but 0 is scored once.

    All have the same length; the last one begins early enough for that, so that its tokens have more before them.
    `stride` is less than `length`: the first token of a window has nothing before it.
    """
    assert 0 < stride < length
    first, end = 1, min(length, count)
    while first < count:
        yield max(0, end - length), first, end
        first, end = end, min(end + stride, count)


def sliding(
    model: Model,
    ids: Sequence[int],
    length: int,
    stride: int,
    progress: Progress | None = None,
    journal: Journal | None = None,
) -> tuple[Tensor, Tensor]:
    """Nats of tokens 1, 2, ... of a text, each with `length - stride` tokens before it or more, and the choices.

    `progress` is called with the number of tokens done. Each batch of windows is one step of the journal.
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
    """Return the nats, and the most probable ids, of the tokens that are scored in some windows, concatenated."""
    pairs = [*zip(*scored(model, rows), places, strict=True)]
    nats = [found[first - begin - 1 :] for found, _, (begin, first, _) in pairs]
    best = [chosen[first - begin - 1 :] for _, chosen, (begin, first, _) in pairs]
    return [torch.cat(nats).tolist(), torch.cat(best).tolist()]
