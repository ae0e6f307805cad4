"""Text in, text out, with any checkpoint that `kept` reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.commands.sampling import check_texts, checked_sampling, opening_messages, user_message
from kept.device import AUTO, dtype_name
from kept.errors import InputError
from kept.reporting import Progress, reporter_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


@dataclass(frozen=True)
class GeneratedText:
    """A prompt and what the model wrote after it."""

    prompt: str
    text: str


def generate(  # noqa: PLR0913 - each is a word that users say
    path: str | Path,
    prompts: str | Sequence[str],
    *,
    chat: bool = False,
    system: str | None = None,
    max_new_tokens: int | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    device: str = AUTO,
    dtype: str | None = None,
    progress: Progress = False,
) -> list[GeneratedText]:
    """Continue one or several prompts, in one batch, or answer them as the user's turns of conversations.

    Args:
        path: a checkpoint of any family.
        prompts: a prompt, or several.
        chat: render each prompt with the model's chat template, and return the answer of the assistant.
        system: with `chat`, the message of the system.
        max_new_tokens: maximum number of new tokens. [default: 64, with `chat` 512]
        temperature: 0 is greedy decoding.
        top_p: sample from the most likely tokens with this total probability.
        seed: seed of the sampling.
        device: "auto" (a GPU if there is one), "cpu", "cuda" or "cuda:1".
        dtype: dtype that the weights are cast to, such as "bf16". [default: the checkpoint's]
        progress: True shows bars on stderr; or a `kept.Reporter`.

    Returns:
        For each prompt, the prompt and its continuation or answer, up to an end token of the generation config.

    Raises:
        InputError: a prompt is empty or too long, the checkpoint has no tokenizer or no chat template, or the device
            is not there.
        CheckpointError: a file is missing or damaged.

    Example:
        ```python
        print(kept.generate("out/llama", "Once upon a time", max_new_tokens=16)[0].text)
        print(kept.generate("out/smollm2", "What is a KV cache?", chat=True)[0].text)
        ```
    """
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if system is not None and not chat:
        raise InputError("system: is a message of a conversation; give chat too")
    sampling = checked_sampling(max_new_tokens, temperature, top_p, seed, chat=chat)
    check_texts([*prompts, system or ""])
    from kept.commands.text_model import TextModel  # noqa: PLC0415 - slow import, done after the checks

    model = TextModel.open(path, device, dtype_name(dtype))
    if chat:
        said = [model.answer([*opening_messages(system), user_message(prompt)], sampling) for prompt in prompts]
    else:
        with reporter_of(progress).stage("generate", sampling.max_new_tokens, "tokens") as advance:
            said = model.continue_all(prompts, sampling, advance)
    return [GeneratedText(prompt, text) for prompt, text in zip(prompts, said, strict=True)]
