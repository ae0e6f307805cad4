"""A model with its tokenizer: text or a conversation in, text out, as a whole or as it is written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from kept.checkpoint.chat_template import Conversation, special_texts
from kept.checkpoint.generation_config import end_ids
from kept.checkpoint.text_stream import TextStream
from kept.device import torch_device
from kept.errors import InputError
from kept.evaluation.chat import template_of
from kept.evaluation.subject import Subject
from kept.loaded import open_model
from kept.nn import generate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from kept.checkpoint.chat_template import Template
    from kept.commands.sampling import Sampling

    Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True)
class TextModel:
    """A model that continues texts and answers conversations."""

    subject: Subject

    @classmethod
    def open(cls, path: str | Path, device: str, dtype: str | None) -> TextModel:
        """Open a model. Its weights are loaded when the first text is generated."""
        return cls(Subject(open_model(path), None if dtype is None else getattr(torch, dtype), torch_device(device)))

    def continue_all(
        self, prompts: Sequence[str], sampling: Sampling, progress: Callable[[int], None] | None = None
    ) -> list[str]:
        """Return the continuations of some texts, generated in one batch."""
        ids = [self.subject.reader.encode(prompt) for prompt in prompts]
        new = self._generate(ids, sampling, progress=progress, ends=self._ends)
        return [self.subject.reader.continuation(old, more) for old, more in zip(ids, new, strict=True)]

    def answer(self, messages: Messages, sampling: Sampling, write: Callable[[str], None] | None = None) -> str:
        """Return the answer to a conversation; `write` receives its text piece by piece.

        Raises InputError if the model has no chat template, or the conversation leaves no room for an answer.
        """
        prompt = self.template.render(Conversation(messages))
        ids = self.subject.encode(prompt, special=False)
        room = self.subject.context - len(ids)
        if room < 1:
            raise InputError(
                f"the conversation has {len(ids)} tokens, the model has {self.subject.context} positions; "
                "begin a new one, or shorten it"
            )
        stream = TextStream(self.subject.reader, ids, write or (lambda _: None))

        def note(new: Sequence[int]) -> bool:
            stream.extend(new)
            return False

        sampling = replace(sampling, max_new_tokens=min(room, sampling.max_new_tokens))
        (new,) = self._generate([ids], sampling, stop=None if write is None else note, ends=self._turn_ends)
        stream.end(new)
        return self.subject.reader.continuation(ids, new)

    @cached_property
    def template(self) -> Template:
        """The model's chat template. Raises InputError if it has none."""
        return template_of(self.subject)

    def _generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, **options: Any) -> list[list[int]]:  # noqa: ANN401 - options of `generate`
        return generate(
            self.subject.model,
            prompts,
            sampling.max_new_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            **options,
        )

    @property
    def _ends(self) -> frozenset[int]:
        """Ids at which a text ends: those of the generation config and of the config."""
        eos = self.subject.spec.tokens.eos
        own = eos if isinstance(eos, tuple) else () if eos is None else (eos,)
        return frozenset((*own, *end_ids(self.subject.loaded.path)))

    @property
    def _turn_ends(self) -> frozenset[int]:
        """Ids at which an answer ends: also the tokenizer's end token, which chat models put after each turn."""
        word = special_texts(self.subject.loaded.path).get("eos_token")
        found = None if word is None else self.subject.reader.tokenizer.vocabulary.get(word)
        return self._ends if found is None else self._ends | {found}
