"""Perplexity and bits per byte of a text, with the model's own tokenizer, in sliding windows.

The items are passages of a fixed number of characters, so that models with different tokenizers are compared on the
same passages. A token belongs to the passage in which it begins.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kept.errors import InputError
from kept.evaluation.estimate import Estimate, exponential, ratio
from kept.evaluation.scoring import score_sliding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.checkpoint.tokenizer_reader import EncodedText
    from kept.evaluation.subject import Subject

PASSAGE = 1000
"""Length of a passage in characters."""


def measure_text(subject: Subject, name: str, text: str, window: int | None, stride: int | None) -> dict[str, Any]:
    """Return nats, tokens and bytes of each passage of a text.

    `window` and `stride` are in tokens. They default to the model's context and to half the window; larger values are
    reduced to the context and to the window minus 1. Raises InputError if the text has fewer than two tokens.
    """
    encoding = subject.reader.encoding(text)
    count = _tokens(encoding)
    ids = subject.checked(encoding.ids.tolist())[:count]
    if count < 2:
        raise InputError(f"{name}: has {count} tokens; give a longer text")
    length = min(window or subject.context, subject.context)
    step = min(stride or length // 2, length - 1)
    with subject.reporter.stage(name, count - 1, "tokens") as advance:
        nats, _ = score_sliding(subject.model, ids, length, step, advance, subject.journal)
    starts = encoding.offsets[1:count, 0].tolist()
    return {"passages": _passages(text, starts, nats.tolist())}


def text_estimates(found: dict[str, Any]) -> dict[str, Estimate]:
    """Return the perplexity per token and the bits per byte of a text."""
    nats, _, octets = zip(*found["passages"], strict=True)
    bits = [n / math.log(2) for n in nats]
    return {"perplexity": exponential(nats_per_token(found)), "bits per byte": ratio(bits, octets)}


def nats_per_token(found: dict[str, Any]) -> Estimate:
    """Return the loss in nats per token, which compares models with the same tokens only."""
    nats, tokens, _ = zip(*found["passages"], strict=True)
    return ratio(nats, tokens)


def nats_per_byte(found: dict[str, Any]) -> Estimate:
    """Return the loss in nats per UTF-8 byte, which compares models with any tokenizers."""
    nats, _, octets = zip(*found["passages"], strict=True)
    return ratio(nats, octets)


def same_tokenization(first: dict[str, Any], other: dict[str, Any]) -> bool:
    """Return whether two models have as many tokens in every passage."""
    return [tokens for _, tokens, _ in first["passages"]] == [tokens for _, tokens, _ in other["passages"]]


def _tokens(encoding: EncodedText) -> int:
    """Return the number of tokens without special tokens at the end."""
    count = len(encoding.ids)
    while count and encoding.special[count - 1]:
        count -= 1
    return count


def _passages(text: str, starts: Sequence[int], nats: Sequence[float]) -> list[list[float]]:
    """Return nats, tokens and bytes of each passage. Text before the first predicted token is not counted."""
    rows = [[0.0, 0, len(text[at : at + PASSAGE].encode())] for at in range(0, len(text), PASSAGE)]
    for start, loss in zip(starts, nats, strict=True):
        row = rows[min(start // PASSAGE, len(rows) - 1)]
        row[0] += loss
        row[1] += 1
    rows[0][2] -= len(text[: starts[0]].encode())
    return rows
