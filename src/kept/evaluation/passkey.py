"""Passkey retrieval (arXiv 2305.16300): a key of five digits is inserted into a filler text and asked for at its end.

Prompts are synthetic and seeded. Lengths double from 1,024 tokens to the model's limit; depths go from the beginning of
the text to its end. An answer is correct if its first digits are the key. Decoding is greedy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any

from kept.errors import InputError
from kept.evaluation.estimate import Estimate, average, mean
from kept.nn.generate import generate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.evaluation.subject import Subject

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Positions of the key as fractions of the filler text."""

SHORTEST = 1024

INTRODUCTION = "Somewhere in this text a pass key is given. Find it and keep it in mind.\n"
FILLER = "The river runs past the mill, and a slow wind moves the reeds along the bank. "
KEY = "The pass key is {key}. Keep it in mind: {key} is the pass key. "
QUESTION = "\nWhat is the pass key? The pass key is"


@dataclass(frozen=True)
class PasskeyPrompt:
    """A prompt of token ids, and the key that answers it. `length` is in tokens."""

    length: int
    depth: float
    key: str
    prompt: tuple[int, ...]


def lengths(limit: int) -> list[int]:
    """Return 1,024, 2,048, ... and the limit, in tokens; only the limit if it is at most 1,024."""
    found, length = [], SHORTEST
    while length < limit:
        found.append(length)
        length *= 2
    return [*found, limit]


def measure_passkey(subject: Subject, limit: int, trials: int, seed: int) -> dict[str, Any]:
    """Return for each length and depth whether the answer of each trial is correct.

    Raises InputError if the limit exceeds the model's context, or leaves no room for the question.
    """
    if limit > subject.context:
        raise InputError(
            f"max_length: is {limit}, but the context of {subject.loaded.path} is {subject.context} tokens"
        )
    sizes = lengths(limit)
    found = []
    with subject.reporter.stage("passkey", len(sizes) * len(DEPTHS) * trials, "answers") as advance:
        for length in sizes:
            for depth in DEPTHS:
                cell = partial(_cell, subject, length, depth, [f"{seed} {n}" for n in range(trials)])
                hits = subject.journal.take(cell)
                found.append({"length": length, "depth": depth, "right": hits})
                advance(trials)
    return {"cells": found}


def _cell(subject: Subject, length: int, depth: float, seeds: Sequence[str]) -> list[bool]:
    """Return for each seed whether the model retrieves the key at this length and depth."""
    return [_answered_correctly(subject, passkey_prompt(subject, length, depth, seed)) for seed in seeds]


def passkey_estimates(found: dict[str, Any]) -> dict[str, Estimate]:
    """Return the fraction of correct answers by length, by depth, and overall."""
    cells = found["cells"]
    out = {}
    for part in ("length", "depth"):
        for value in dict.fromkeys(cell[part] for cell in cells):
            mine = [float(hit) for cell in cells if cell[part] == value for hit in cell["right"]]
            out[f"at {part} {value}"] = mean(mine)
    return {**out, "overall": average([mean([float(h) for h in cell["right"]]) for cell in cells])}


def passkey_prompt(subject: Subject, length: int, depth: float, seed: str) -> PasskeyPrompt:
    """Return a prompt of at most `length` tokens, answer included. Raises InputError if `length` is too small."""
    key = str(Random(f"{seed} {length} {depth}").randrange(10_000, 100_000))  # noqa: S311 - not a secret
    room = length - answer_tokens(subject)
    filler = len(subject.encode(FILLER * 33)) - len(subject.encode(FILLER))
    bare = len(subject.encode(_text(key, 0, depth)))
    count = max(0, (room - bare) * 32 // filler)
    ids = subject.encode(_text(key, count, depth))
    while len(ids) > room and count:
        count -= 1
        ids = subject.encode(_text(key, count, depth))
    if len(ids) > room:
        raise InputError(f"{subject.loaded.path}: {length} tokens are too few for a passkey prompt")
    return PasskeyPrompt(length, depth, key, tuple(ids))


def answer_tokens(subject: Subject) -> int:
    """Return the maximum number of tokens in an answer."""
    return len(subject.encode(" 98765", special=False)) + 2


def is_correct(answer: str, key: str) -> bool:
    """Return whether the first digits of an answer are the key."""
    digits = re.search(r"\d+", answer)
    return digits is not None and digits.group() == key


def _text(key: str, count: int, depth: float) -> str:
    before = round(count * depth)
    return f"{INTRODUCTION}{FILLER * before}{KEY.format(key=key)}{FILLER * (count - before)}".rstrip() + QUESTION


def _answered_correctly(subject: Subject, asked: PasskeyPrompt) -> bool:
    prompt = [*asked.prompt]
    (new,) = generate(subject.model, [prompt], answer_tokens(subject))
    return is_correct(subject.reader.continuation(prompt, new), asked.key)
