"""Agreement of two models: greedy continuations of the same prompts, and the most likely token at each position.

Each model is measured alone and the results are compared, so only one model is in memory at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.errors import InputError
from kept.evaluation.answering import answers
from kept.evaluation.estimate import Estimate, mean
from kept.evaluation.result_store import sum_of
from kept.evaluation.scoring import score_sliding
from kept.formatting import shared_prefix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.evaluation.subject import Subject

PROMPTS = 16
PROMPT = 200
"""Length of a prompt in characters."""

NEW_TOKENS = 32

CHOICES = 4096
"""Number of tokens at which the most likely next token is compared."""


def prompts_of(text: str, count: int) -> list[str]:
    """Return up to `count` prompts from evenly spaced places of a text, each beginning at a word.

    Raises InputError if the text is empty.
    """
    if not text.strip():
        raise InputError("the text to take prompts from is empty")
    starts = range(0, max(1, len(text) - PROMPT), max(1, len(text) // count))
    found = (_from_word(text[at : at + PROMPT]) if at else text[:PROMPT] for at in starts)
    return [prompt for prompt in (one.strip() for one in found) if prompt][:count]


def _from_word(text: str) -> str:
    """Return the text without its first word, which may be truncated."""
    return text.partition(" ")[2] or text


def measure_greedy(subject: Subject, text: str, count: int) -> dict[str, Any]:
    """Return greedy continuations of prompts from a text, and the most likely token at each of its positions.

    Keys: `prompts` and `texts` (as many strings), `ids` (sha256 of the token ids), `choices` (token ids).
    """
    prompts = prompts_of(text, count)
    texts = answers(subject, [subject.encode(prompt) for prompt in prompts], NEW_TOKENS)
    ids = subject.encode(text[: 8 * CHOICES])[:CHOICES]
    length = subject.context
    step = max(1, length // 2)
    best = score_sliding(subject.model, ids, length, step, journal=subject.journal)[1].tolist() if len(ids) > 1 else []
    return {"prompts": prompts, "texts": texts, "ids": sum_of(ids), "choices": best}


def agreement_estimates(first: dict[str, Any], other: dict[str, Any]) -> dict[str, Estimate]:
    """Return the fraction of identical continuations, of their common prefix, and of identical most likely tokens.

    The tokens are compared only if both tokenizers give the same ids.
    """
    out = text_agreement(first["texts"], other["texts"])
    if first["ids"] == other["ids"]:
        pairs = zip(first["choices"], other["choices"], strict=True)
        out["same greedy token"] = mean([float(a == b) for a, b in pairs])
    return out


def text_agreement(first: Sequence[str], other: Sequence[str]) -> dict[str, Estimate]:
    """Return the fraction of identical answers, and the mean length of the common prefix relative to the longer one."""
    pairs = [*zip(first, other, strict=True)]
    return {
        "identical text": mean([float(a == b) for a, b in pairs]),
        "common prefix": mean([_common_prefix(a, b) for a, b in pairs]),
    }


def _common_prefix(a: str, b: str) -> float:
    longer = max(len(a), len(b))
    return shared_prefix(a, b) / longer if longer else 1.0
