"""Perplexity and bits per byte of a text, by the model's own tokenizer, in sliding windows.

The items are passages of a fixed number of characters, whatever the tokens: two models with different tokenizers are
compared on the same passages. A token counts for the passage in which it begins.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kept.errors import InputError
from kept.evaluation.estimate import Estimate, exponential, ratio
from kept.evaluation.scoring import sliding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.checkpoint.tokenizer_reader import EncodedText
    from kept.evaluation.subject import Subject

PASSAGE = 1000
"""Characters of a passage."""


def measure_text(subject: Subject, name: str, text: str, window: int | None, stride: int | None) -> dict[str, Any]:
    """Nats, tokens and bytes of each passage of a text.

    `window` is at most the model's context (None: the context), `stride` less than the window (None: half of it).
    Raises InputError where the text has fewer than two tokens.
    """
    encoding = subject.reader.encoding(text)
    count = _tokens(encoding)
    ids = subject.checked(encoding.ids.tolist())[:count]
    if count < 2:
        raise InputError(f"{name}: gives {count} tokens; a longer text is needed")
    length = min(window or subject.context, subject.context)
    step = min(stride or length // 2, length - 1)
    with subject.reporter.stage(name, count - 1, "tokens") as advance:
        nats, _ = sliding(subject.model, ids, length, step, advance, subject.journal)
    starts = encoding.offsets[1:count, 0].tolist()
    return {"passages": _passages(text, starts, nats.tolist())}


def text_estimates(found: dict[str, Any]) -> dict[str, Estimate]:
    """The two figures of a text: perplexity per token, and bits per byte."""
    nats, _, octets = zip(*found["passages"], strict=True)
    bits = [n / math.log(2) for n in nats]
    return {"perplexity": exponential(nats_a_token(found)), "bits per byte": ratio(bits, octets)}


def nats_a_token(found: dict[str, Any]) -> Estimate:
    """What a token costs; it compares where two models cut a text alike."""
    nats, tokens, _ = zip(*found["passages"], strict=True)
    return ratio(nats, tokens)


def nats_a_byte(found: dict[str, Any]) -> Estimate:
    """What a byte costs: it compares whatever the tokens."""
    nats, _, octets = zip(*found["passages"], strict=True)
    return ratio(nats, octets)


def cut_alike(first: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two models have as many tokens in every passage."""
    return [tokens for _, tokens, _ in first["passages"]] == [tokens for _, tokens, _ in other["passages"]]


def _tokens(encoding: EncodedText) -> int:
    """Tokens less the special ones that the tokenizer puts behind a text."""
    count = len(encoding.ids)
    while count and encoding.special[count - 1]:
        count -= 1
    return count


def _passages(text: str, starts: Sequence[int], nats: Sequence[float]) -> list[list[float]]:
    """Nats, tokens and bytes of each passage. What stands before the first predicted token counts nowhere."""
    rows = [[0.0, 0, len(text[at : at + PASSAGE].encode())] for at in range(0, len(text), PASSAGE)]
    for start, cost in zip(starts, nats, strict=True):
        row = rows[min(start // PASSAGE, len(rows) - 1)]
        row[0] += cost
        row[1] += 1
    rows[0][2] -= len(text[: starts[0]].encode())
    return rows
