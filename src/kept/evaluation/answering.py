"""Greedy answers to prompts of any number and length, in batches, each up to its first stop text."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from kept.evaluation.scoring import BATCH_TOKENS
from kept.ir.spec import Dynamic, LongRope
from kept.nn.generate import generate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from kept.checkpoint.tokenizer_reader import TokenizerReader
    from kept.evaluation.subject import Subject
    from kept.ir.spec import Spec

TAIL = 32
"""Number of last tokens of an answer that are searched for a stop text during generation."""


def answers(
    subject: Subject, prompts: Sequence[list[int]], new: int, until: Sequence[str] = (), stage: str = "answers"
) -> list[str]:
    """Return greedy answers of at most `new` tokens, or half the context, truncated at the first stop text.

    Prompts that leave no room for the answer are truncated at the left. Raises InputError for an empty prompt.
    """
    new = min(new, subject.context // 2)
    cut = [ids[-(subject.context - new) :] for ids in prompts]
    out = [""] * len(cut)
    stop = partial(_stopped, subject.reader, until) if until else None
    with subject.reporter.stage(stage, len(cut), "answers") as advance:
        for some in batches(subject.spec, [len(ids) + new for ids in cut]):
            found = subject.journal.take(partial(_generated, subject, [cut[n] for n in some], new, stop))
            for n, ids in zip(some, found, strict=True):
                out[n] = _before(subject.reader.continuation(cut[n], ids), until)
            advance(len(some))
    return out


def batches(spec: Spec, lengths: Sequence[int]) -> Iterator[list[int]]:
    """Yield batches of sequence indices, longest first, which keeps padding small.

    If a RoPE scaling depends on the sequence length, all sequences of a batch have the same length.
    """
    even = any(isinstance(rope.scaling, Dynamic | LongRope) for rope in spec.ropes())
    some: list[int] = []
    for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        full = some and (len(some) + 1) * lengths[some[0]] > BATCH_TOKENS
        if full or (some and even and lengths[n] != lengths[some[0]]):
            yield some
            some = []
        some.append(n)
    if some:
        yield some


def _generated(
    subject: Subject, prompts: Sequence[list[int]], new: int, stop: Callable[[Sequence[int]], bool] | None
) -> list[list[int]]:
    return generate(subject.model, prompts, new, stop=stop)


def _stopped(reader: TokenizerReader, until: Sequence[str], ids: Sequence[int]) -> bool:
    tail = reader.decode([*ids[-TAIL:]])
    return any(text in tail for text in until)


def _before(text: str, until: Sequence[str]) -> str:
    for stop in until:
        text = text.partition(stop)[0]
    return text
