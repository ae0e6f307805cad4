"""Options of generation and the turns of a conversation, checked before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

COLDEST, HOTTEST = 0.001, 1000.0
"""Temperatures between which logits divided by them stay numbers that differ."""


TOKENS, CHAT_TOKENS = 64, 512
"""Default maximum numbers of new tokens: of a continuation, and of an answer."""


@dataclass(frozen=True)
class Sampling:
    """How many tokens are generated, and how each is chosen: temperature 0 takes the most likely one."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


def opening_messages(system: str | None) -> list[dict[str, str]]:
    """Return the messages with which a conversation begins: the system's, if there is one."""
    return [] if system is None else [{"role": "system", "content": system}]


def user_message(text: str) -> dict[str, str]:
    """Return a turn of the user."""
    return {"role": "user", "content": text}


def _is_text(prompt: str) -> bool:
    """Return whether a prompt can be encoded in UTF-8; arguments in another encoding than the locale's cannot."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_texts(texts: Sequence[str]) -> None:
    """Raise InputError for a text that is not UTF-8: an argument in another encoding than the locale's."""
    if not all(map(_is_text, texts)):
        raise InputError("prompt: has bytes that are no text here; set LANG to a UTF-8 locale, as C.UTF-8")


def checked_sampling(new_tokens: int | None, temperature: float, top_p: float, seed: int, *, chat: bool) -> Sampling:
    """Return how tokens are sampled. Raises InputError for what sampling cannot compute with, such as NaN."""
    tokens = (CHAT_TOKENS if chat else TOKENS) if new_tokens is None else new_tokens
    _check(tokens, temperature, top_p, seed)
    return Sampling(tokens, temperature, top_p, seed)


def _check(max_new_tokens: int, temperature: float, top_p: float, seed: int) -> None:
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens: is {max_new_tokens}, it must be at least 1")
    if temperature != 0 and not COLDEST <= temperature <= HOTTEST:
        raise InputError(f"temperature: is {temperature}, it must be 0 (greedy) or from {COLDEST} to {HOTTEST}")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p: is {top_p}, it must be above 0 and at most 1")
    if not 0 <= seed < 1 << 63:
        raise InputError(f"seed: is {seed}, it must be from 0 to {(1 << 63) - 1}")
