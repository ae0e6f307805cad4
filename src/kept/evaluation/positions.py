"""Perplexity by position in the context, in buckets, up to the model's context length or beyond it.

The text is split into windows that do not overlap, so that position p has exactly p tokens before it.
"""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch

from kept.errors import InputError
from kept.evaluation.estimate import Estimate, exponential, ratio
from kept.evaluation.scoring import score_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.evaluation.subject import Subject

FIRST = 1024
"""End of the first bucket; each further bucket ends at twice the end of the previous one."""

MOST_WINDOWS = 32

CHARACTERS = 16
"""Characters of text to read per position: enough for several windows."""


def longest_of(subject: Subject, longest: int | None) -> int:
    """Return the window length in tokens: `longest`, or the model's context.

    Raises InputError if it exceeds a learned position embedding.
    """
    rows = subject.spec.positions
    if longest is not None and rows is not None and longest > rows:
        raise InputError(
            f"max_length: is {longest}, but the position embedding of {subject.loaded.path} has {rows} positions"
        )
    return subject.context if longest is None else longest


def edges(longest: int) -> list[int]:
    """Return the bucket edges 0, 1024, 2048, ..., `longest`; below 2,048 tokens the first bucket is an eighth."""
    found, end = [0], FIRST if longest >= 2 * FIRST else max(1, longest // 8)
    while end < longest:
        found.append(end)
        end *= 2
    return [*found, longest]


def measure_positions(subject: Subject, name: str, text: str, longest: int) -> dict[str, Any]:
    """Return nats and tokens of each window and bucket. Raises InputError if the text does not fill one window."""
    ids = subject.encode(text)
    count = min(len(ids) // longest, MOST_WINDOWS)
    if not count:
        raise InputError(f"{name}: gives {len(ids)} tokens, one window takes {longest}; give a longer text")
    rows = torch.tensor(ids[: count * longest]).view(count, longest)
    buckets = [*pairwise(edges(longest))]
    found = []
    with subject.reporter.stage(f"{name} by position", count, "windows") as advance:
        for row in rows:
            found.append(subject.journal.take(partial(_window, subject, row, buckets)))
            advance(1)
    return {"buckets": buckets, "windows": found}


def _window(subject: Subject, row_T: torch.Tensor, buckets: Sequence[tuple[int, int]]) -> list[list[float]]:
    """Return the sum of nats and the number of tokens of each bucket in one window."""
    nats = [0.0, *score_rows(subject.model, row_T[None])[0][0].tolist()]
    return [[sum(nats[a:b]), b - max(a, 1)] for a, b in buckets]


def position_estimates(found: dict[str, Any]) -> dict[str, Estimate]:
    """Return the perplexity by bucket, over windows."""
    columns = zip(*found["windows"], strict=True)
    return {
        f"at {begin} to {end}": exponential(ratio(*zip(*column, strict=True)))
        for (begin, end), column in zip(found["buckets"], columns, strict=True)
    }
