"""How far two models say the same: greedy continuations of the same prompts, and the choice at every token of a text.

Each model is measured alone, and what it said is compared: two models need never be in memory together.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kept.errors import InputError
from kept.evaluation.answering import answers
from kept.evaluation.estimate import Estimate, mean
from kept.evaluation.result_store import sum_of
from kept.evaluation.scoring import sliding
from kept.formatting import shared_prefix

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.evaluation.subject import Subject

PROMPTS = 16
PROMPT = 200
"""Characters of a prompt."""

NEW_TOKENS = 32

CHOICES = 4096
"""Tokens at which the choices are compared."""


def prompts_of(text: str, count: int) -> list[str]:
    """Prompts from places spread over a text, each beginning at a word."""
    if not text.strip():
        raise InputError("the text to take prompts from is empty")
    starts = range(0, max(1, len(text) - PROMPT), max(1, len(text) // count))
    found = (_from_word(text[at : at + PROMPT]) if at else text[:PROMPT] for at in starts)
    return [prompt for prompt in (one.strip() for one in found) if prompt][:count]


def _from_word(text: str) -> str:
    """The text less its first word, which may be a part of one."""
    return text.partition(" ")[2] or text


def measure_greedy(subject: Subject, text: str, count: int) -> dict[str, Any]:
    """What the model says after each prompt of a text, and which token it would choose at each token of it."""
    prompts = prompts_of(text, count)
    texts = answers(subject, [subject.encode(prompt) for prompt in prompts], NEW_TOKENS)
    ids = subject.encode(text[: 8 * CHOICES])[:CHOICES]
    length = subject.context
    step = max(1, length // 2)
    best = sliding(subject.model, ids, length, step, journal=subject.journal)[1].tolist() if len(ids) > 1 else []
    return {"prompts": prompts, "texts": texts, "ids": sum_of(ids), "choices": best}


def agreement_estimates(first: dict[str, Any], other: dict[str, Any]) -> dict[str, Estimate]:
    """Shares: of continuations that are equal, of their text before they part, and of equal choices.

    Choices are compared where both tokenizers give the same tokens.
    """
    out = said_alike(first["texts"], other["texts"])
    if first["ids"] == other["ids"]:
        pairs = zip(first["choices"], other["choices"], strict=True)
        out["same token chosen"] = mean([float(a == b) for a, b in pairs])
    return out


def said_alike(first: Sequence[str], other: Sequence[str]) -> dict[str, Estimate]:
    """Shares of answers that are equal, and of their text before they part."""
    pairs = [*zip(first, other, strict=True)]
    return {
        "same text": mean([float(a == b) for a, b in pairs]),
        "text before they part": mean([_share(a, b) for a, b in pairs]),
    }


def _share(a: str, b: str) -> float:
    longer = max(len(a), len(b))
    return shared_prefix(a, b) / longer if longer else 1.0
