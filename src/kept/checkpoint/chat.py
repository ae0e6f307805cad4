"""A checkpoint's chat template: a conversation as the text that its model is to read.

A template is a program that came with the weights. It is rendered in a fenced process, in bounded time and memory, as
transformers renders it (`rendering.py`), but for the clock: `strftime_now` tells the date that the template is opened
with, which a run fixes once and records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kept.checkpoint.companions import portable
from kept.checkpoint.defaults import default_tokens
from kept.checkpoint.json_file import json_if_there
from kept.checkpoint.templates import DEFAULT, LONGEST, chat_templates, read_template
from kept.errors import CheckpointError
from kept.fence import FenceError, Limits, Worker

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kept.fence import Reply

    Messages = Sequence[Mapping[str, Any]]

SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
"""Tokens whose texts a template may name."""

LIMITS = Limits(seconds=10, memory=1 << 29)
"""Of one conversation; templates that are about take milliseconds."""

CLOCK = "strftime_now"
"""What a template calls to tell the date."""


@dataclass(frozen=True)
class Conversation:
    """Messages, and what a template is given beside them; `variables` are further names that it may read."""

    messages: Messages
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As the renderer takes it."""
        return dict(vars(self))


@dataclass(frozen=True)
class Template:
    """Chat templates by name, called `name` where they fail.

    `tokens` has the texts of special tokens that they may name. `date` (YYYY-MM-DD) is what they are told is today.
    """

    name: str
    texts: Mapping[str, str] = field(repr=False)
    tokens: Mapping[str, str] = field(default_factory=dict)
    date: str = ""

    def __post_init__(self) -> None:
        """Check the sizes, and take today's date where none is given."""
        if max(map(len, self.texts.values()), default=0) > LONGEST:
            raise CheckpointError(f"{self.name}: has a chat template of more than {LONGEST} characters; use another")
        if not self.date:
            object.__setattr__(self, "date", today())

    @classmethod
    def of(
        cls, directory: Path, file: Path | None = None, tokens: Mapping[str, str] | None = None, date: str = ""
    ) -> Template | None:
        """The templates of a checkpoint, or `file` for its default one; None where there is none.

        `tokens` are for those that its tokenizer config does not name. Raises InputError where `file` cannot be read.
        """
        texts = chat_templates(directory)
        if file is not None:
            texts[DEFAULT] = read_template(file)
        if not texts:
            return None
        name = str(directory if file is None else file)
        return cls(name, texts, {**(tokens or {}), **special_texts(directory)}, date)

    @property
    def dated(self) -> bool:
        """Whether the texts that it makes depend on the date."""
        return any(CLOCK in text for text in self.texts.values())

    def described(self) -> dict[str, Any]:
        """All that a conversation's text depends on beside the conversation."""
        made = {"templates": dict(self.texts), "tokens": dict(self.tokens)}
        return {**made, "date": self.date} if self.dated else made

    def render(self, conversation: Conversation, *, prompt: bool = True) -> str:
        """A conversation as text, with what makes the assistant answer at its end (`prompt`).

        Raises CheckpointError where the template does not take the conversation.
        """
        text: str = self._call("prompt" if prompt else "text", conversation.to_dict()).value
        return text

    def answers(self, conversation: Conversation, learned: Sequence[bool]) -> tuple[str, list[tuple[int, int]]]:
        """A conversation as text, and the characters in it that are learned, with what ends each turn.

        `learned` says of each message whether it is, if the assistant says it. What the assistant says is what the
        template marks, or, where it marks nothing, from the end of the prompt for an answer to the end of the answer.
        Raises InputError where that cannot be told because the template changes earlier turns, CheckpointError where it
        does not take the conversation.
        """
        found = self._call("answers", conversation.to_dict(), [*learned])
        return found.data.decode("utf-8", "surrogatepass"), [(begin, end) for begin, end in found.value]

    @cached_property
    def variables(self) -> frozenset[str]:
        """Names that the templates read and do not set."""
        return frozenset(self._names[0])

    @cached_property
    def words(self) -> frozenset[str]:
        """Attributes and texts that appear in the templates: keys of a message, and roles, among others."""
        return frozenset(self._names[1])

    @cached_property
    def _names(self) -> list[list[str]]:
        found: list[list[str]] = self._call("names").value
        return found

    @cached_property
    def _worker(self) -> Worker:
        arguments = (self.name, dict(self.texts), dict(self.tokens), self.date)
        return Worker("kept.checkpoint.rendering:Renderer", *arguments, limits=LIMITS)

    def _call(self, method: str, *arguments: object) -> Reply:
        try:
            return self._worker.call(method, *arguments)
        except FenceError as error:
            raise CheckpointError(f"{self.name}: its chat template fails ({error}); use another one") from None


def today() -> str:
    """Today's date as YYYY-MM-DD, where this machine is."""
    return datetime.now(UTC).astimezone().date().isoformat()


def special_texts(directory: Path) -> dict[str, str]:
    """The texts of special tokens, by the names that a template is told.

    As in transformers, special_tokens_map.json counts only where the tokenizer config lists no tokens.
    """
    config = portable(json_if_there(directory / "tokenizer_config.json"))
    if "added_tokens_decoder" not in config:
        config |= portable(json_if_there(directory / "special_tokens_map.json"))
    config |= default_tokens(directory, config)
    named = {key: value for key, value in config.items() if key in SPECIAL or key.endswith("_token")}
    texts = {**named, **(config.get("extra_special_tokens") or {})}
    plain = {name: text.get("content") if isinstance(text, dict) else text for name, text in texts.items()}
    return {name: text for name, text in plain.items() if isinstance(text, str)}
