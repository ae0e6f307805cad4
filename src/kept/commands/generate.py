"""Text in, text out, with any checkpoint that `kept` reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.errors import InputError
from kept.loaded import open_model
from kept.reporting import Reporter, Silent

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


COLDEST, HOTTEST = 0.001, 1000.0
"""Temperatures between which logits divided by them stay numbers that differ."""


@dataclass(frozen=True)
class GeneratedText:
    """A prompt and what the model wrote after it."""

    prompt: str
    text: str


def _is_text(prompt: str) -> bool:
    """Return whether a prompt can be encoded in UTF-8; arguments in another encoding than the locale's cannot."""
    try:
        prompt.encode()
    except UnicodeEncodeError:
        return False
    return True


def generate(
    path: str | Path,
    prompts: str | Sequence[str],
    *,
    max_new_tokens: int = 64,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> list[GeneratedText]:
    """Continue one or several prompts, in one batch, in the checkpoint's own dtype.

    Args:
        path: a checkpoint of any family.
        prompts: a prompt, or several.
        max_new_tokens: maximum number of new tokens.
        temperature: 0 is greedy decoding.
        top_p: sample from the most likely tokens with this total probability.
        seed: seed of the sampling.
        reporter: receives notes.

    Returns:
        For each prompt, the prompt and its continuation.

    Raises:
        InputError: a prompt is empty or too long, or the checkpoint has no tokenizer.
        CheckpointError: a file is missing or damaged.

    Example:
        ```python
        print(kept.generate("out/llama", "Once upon a time", max_new_tokens=16)[0].text)
        ```
    """
    from kept.checkpoint.tokenizer_reader import TokenizerReader  # noqa: PLC0415 - slow import, done after the checks
    from kept.nn import Model  # noqa: PLC0415 - imports torch
    from kept.nn import generate as continue_ids  # noqa: PLC0415 - slow import, done after the checks

    _check(max_new_tokens, temperature, top_p, seed)
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if not all(map(_is_text, prompts)):
        raise InputError("prompt: has bytes that are no text here; set LANG to a UTF-8 locale, as C.UTF-8")
    opened = open_model(path)
    reader = TokenizerReader(opened.path)
    ids = [reader.encode(prompt) for prompt in prompts]
    model = Model.load(opened.program)
    with (reporter or Silent()).stage("generate", max_new_tokens, "tokens") as advance:
        new = continue_ids(
            model, ids, max_new_tokens, temperature=temperature, top_p=top_p, seed=seed, progress=advance
        )
    return [
        GeneratedText(prompt, reader.continuation(old, more))
        for prompt, old, more in zip(prompts, ids, new, strict=True)
    ]


def _check(max_new_tokens: int, temperature: float, top_p: float, seed: int) -> None:
    """Refuse what sampling cannot compute with, NaN and infinity among it."""
    if max_new_tokens < 1:
        raise InputError(f"max_new_tokens: is {max_new_tokens}, it must be at least 1")
    if temperature != 0 and not COLDEST <= temperature <= HOTTEST:
        raise InputError(f"temperature: is {temperature}, it must be 0 (greedy) or from {COLDEST} to {HOTTEST}")
    if not 0 < top_p <= 1:
        raise InputError(f"top_p: is {top_p}, it must be above 0 and at most 1")
    if not 0 <= seed < 1 << 63:
        raise InputError(f"seed: is {seed}, it must be from 0 to {(1 << 63) - 1}")
