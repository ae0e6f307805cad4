"""Passkey retrieval (arXiv 2305.16300): five digits are said once in a long dull text, and asked for at its end.

Synthetic and seeded: lengths from 1,024 tokens, doubling, to the model's limit; depths from the beginning of the text
to its end. Greedy; right where the first digits of the answer are the key.
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
"""Where the key is said, as a fraction of the text before the question."""

SHORTEST = 1024

INTRODUCTION = "Somewhere in this text a pass key is given. Find it and keep it in mind.\n"
DULL = "The river runs past the mill, and a slow wind moves the reeds along the bank. "
KEY = "The pass key is {key}. Keep it in mind: {key} is the pass key. "
QUESTION = "\nWhat is the pass key? The pass key is"


@dataclass(frozen=True)
class PasskeyPrompt:
    """One prompt and the digits that answer it."""

    length: int
    depth: float
    key: str
    prompt: tuple[int, ...]


def lengths(limit: int) -> list[int]:
    """1,024, 2,048, ... and the limit; the limit alone where it is no more."""
    found, length = [], SHORTEST
    while length < limit:
        found.append(length)
        length *= 2
    return [*found, limit]


def measure_passkey(subject: Subject, limit: int, trials: int, seed: int) -> dict[str, Any]:
    """Right or wrong for each length, depth and trial.

    Raises InputError where the limit passes the model's context, or leaves no room for the question.
    """
    if limit > subject.context:
        raise InputError(f"longest: is {limit}, and {subject.opened.path} has {subject.context} positions to answer in")
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
    """Return for each seed whether the model finds the key at this length and depth."""
    return [_solved(subject, riddle(subject, length, depth, seed)) for seed in seeds]


def passkey_estimates(found: dict[str, Any]) -> dict[str, Estimate]:
    """Retrieval by length, then by depth, then of all."""
    cells = found["cells"]
    out = {}
    for part in ("length", "depth"):
        for value in dict.fromkeys(cell[part] for cell in cells):
            mine = [float(hit) for cell in cells if cell[part] == value for hit in cell["right"]]
            out[f"at {part} {value}"] = mean(mine)
    return {**out, "at all": average([mean([float(h) for h in cell["right"]]) for cell in cells])}


def riddle(subject: Subject, length: int, depth: float, seed: str) -> PasskeyPrompt:
    """A prompt of at most `length` tokens, answer included. Raises InputError where none fits."""
    key = str(Random(f"{seed} {length} {depth}").randrange(10_000, 100_000))  # noqa: S311 - a riddle is no secret
    room = length - answer_tokens(subject)
    dull = len(subject.encode(DULL * 33)) - len(subject.encode(DULL))
    bare = len(subject.encode(_text(key, 0, depth)))
    count = max(0, (room - bare) * 32 // dull)
    ids = subject.encode(_text(key, count, depth))
    while len(ids) > room and count:
        count -= 1
        ids = subject.encode(_text(key, count, depth))
    if len(ids) > room:
        raise InputError(f"{subject.opened.path}: {length} positions are too few to hide a pass key in")
    return PasskeyPrompt(length, depth, key, tuple(ids))


def answer_tokens(subject: Subject) -> int:
    """Tokens that an answer may have."""
    return len(subject.encode(" 98765", special=False)) + 2


def right(answer: str, key: str) -> bool:
    """Whether the first digits of an answer are the key."""
    digits = re.search(r"\d+", answer)
    return digits is not None and digits.group() == key


def _text(key: str, count: int, depth: float) -> str:
    before = round(count * depth)
    return f"{INTRODUCTION}{DULL * before}{KEY.format(key=key)}{DULL * (count - before)}".rstrip() + QUESTION


def _solved(subject: Subject, asked: PasskeyPrompt) -> bool:
    prompt = [*asked.prompt]
    (new,) = generate(subject.model, [prompt], answer_tokens(subject))
    return right(subject.reader.continuation(prompt, new), asked.key)
