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

PADDING, LEAST_TOKENS = 1 / 8, 512
"""Maximum share of padding in a batch, and the number of tokens from which a batch is worth its overhead."""

TAIL = 32
"""Number of last tokens of an answer that are searched for a stop text during generation."""


def answers(
    subject: Subject,
    prompts: Sequence[list[int]],
    new: int,
    until: Sequence[str] = (),
    stage: str = "answers",
    batch: int | None = None,
) -> list[str]:
    """Return greedy answers of at most `new` tokens, or half the context, truncated at the first stop text.

    `batch` is the number of prompts that run together; None chooses it by their length. Prompts that leave no room for
    the answer are truncated at the left. Raises InputError for an empty prompt.
    """
    new = min(new, subject.context // 2)
    cut = [ids[-(subject.context - new) :] for ids in prompts]
    out = [""] * len(cut)
    stop = partial(_stopped, subject.reader, until) if until else None
    with subject.reporter.stage(stage, len(cut), "answers") as advance:
        for some in batches(subject.spec, [len(ids) + new for ids in cut], batch):
            found = subject.journal.take(partial(_generated, subject, [cut[n] for n in some], new, stop))
            for n, ids in zip(some, found, strict=True):
                out[n] = _before(subject.reader.continuation(cut[n], ids), until)
            advance(len(some))
    return out


def batches(spec: Spec, lengths: Sequence[int], count: int | None = None) -> Iterator[list[int]]:
    """Yield batches of sequence indices, longest first, which keeps padding small.

    A batch has `count` sequences; None: as many as make `BATCH_TOKENS` tokens, or fewer if the padding is more than
    `PADDING` of a batch of at least `LEAST_TOKENS`. If `lengths_matter`, all its sequences have the same length.
    """
    even = lengths_matter(spec)
    some: list[int] = []
    for n in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        full = len(some) == count if count else some and _is_full([lengths[i] for i in some], lengths[n])
        if full or (some and even and lengths[n] != lengths[some[0]]):
            yield some
            some = []
        some.append(n)
    if some:
        yield some


def _is_full(lengths: Sequence[int], new: int) -> bool:
    """Return whether a batch of some lengths, longest first, takes no further sequence."""
    size = (len(lengths) + 1) * lengths[0]
    padding = size - sum(lengths) - new
    return size > BATCH_TOKENS or (size - lengths[0] >= LEAST_TOKENS and padding > PADDING * size)


def lengths_matter(spec: Spec) -> bool:
    """Return whether a RoPE scaling depends on the sequence length."""
    return any(isinstance(rope.scaling, Dynamic | LongRope) for rope in spec.ropes())


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
