"""A checkpoint's chat template: a conversation as the text that its model is to read.

A template is a program that comes with the weights. `rendering.py` renders it as transformers does, in a fenced process
with bounded time and memory. The clock is the one difference: `strftime_now` returns a fixed date, which a run chooses
once and records.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from kept.checkpoint.default_tokens import default_tokens
from kept.checkpoint.json_file import json_if_there
from kept.checkpoint.templates import DEFAULT, LONGEST, chat_templates, read_template
from kept.checkpoint.tokenizer_config import portable
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
"""Limits on rendering one conversation. Published templates take milliseconds."""

CLOCK = "strftime_now"
"""The function that a template calls for the current date."""


@dataclass(frozen=True)
class Conversation:
    """Messages and the other inputs of a chat template; `variables` are further template variables by name."""

    messages: Messages
    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the conversation as the JSON object that `rendering.Renderer` reads."""
        return dict(vars(self))


@dataclass(frozen=True)
class Template:
    """The chat templates of a checkpoint, by name.

    `name` stands for them in error messages. `tokens` are the texts of special tokens by name. `date` (YYYY-MM-DD) is
    the date that `strftime_now` returns.
    """

    name: str
    texts: Mapping[str, str] = field(repr=False)
    tokens: Mapping[str, str] = field(default_factory=dict)
    date: str = ""

    def __post_init__(self) -> None:
        """Check the sizes. An empty `date` becomes today's."""
        if max(map(len, self.texts.values()), default=0) > LONGEST:
            raise CheckpointError(f"{self.name}: has a chat template of more than {LONGEST} characters; use another")
        if not self.date:
            object.__setattr__(self, "date", today())

    @classmethod
    def of(
        cls, directory: Path, file: Path | None = None, tokens: Mapping[str, str] | None = None, date: str = ""
    ) -> Template | None:
        """Return the templates of a checkpoint, or None if it has none. `file` replaces the default template.

        `tokens` are special tokens that the tokenizer config may override. Raises InputError if `file` cannot be read.
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
        """Whether the rendered text depends on the date."""
        return any(CLOCK in text for text in self.texts.values())

    def described(self) -> dict[str, Any]:
        """Return everything besides the conversation that determines the rendered text, as JSON."""
        made = {"templates": dict(self.texts), "tokens": dict(self.tokens)}
        return {**made, "date": self.date} if self.dated else made

    def render(self, conversation: Conversation, *, prompt: bool = True) -> str:
        """Return a conversation as text. `prompt` adds the generation prompt at the end.

        Raises CheckpointError if the template fails on the conversation.
        """
        text: str = self._call("prompt" if prompt else "text", conversation.to_dict()).value
        return text

    def answers(self, conversation: Conversation, trained: Sequence[bool]) -> tuple[str, list[tuple[int, int]]]:
        """Return a conversation as text, and the character spans (begin, end) of the answers to train on.

        `trained` has a flag per message; only messages of the assistant count. An answer is what the template puts in
        `{% generation %}`; without that tag it runs from the end of its generation prompt to the end of its turn.
        Raises InputError if the template changes earlier turns, so that answers have no fixed place, and
        CheckpointError if the template fails on the conversation.
        """
        found = self._call("answers", conversation.to_dict(), [*trained])
        return found.data.decode("utf-8", "surrogatepass"), [(begin, end) for begin, end in found.value]

    @cached_property
    def variables(self) -> frozenset[str]:
        """Variables that the templates read and do not assign."""
        return frozenset(self._names[0])

    @cached_property
    def words(self) -> frozenset[str]:
        """Attribute names and string constants in the templates, among them message keys and roles."""
        return frozenset(self._names[1])

    @cached_property
    def _names(self) -> list[list[str]]:
        found: list[list[str]] = self._call("names").value
        return found

    @cached_property
    def _worker(self) -> Worker:
        arguments = (self.name, dict(self.texts), dict(self.tokens), self.date)
        return Worker("kept.checkpoint.template_worker:Renderer", *arguments, limits=LIMITS)

    def _call(self, method: str, *arguments: object) -> Reply:
        try:
            return self._worker.call(method, *arguments)
        except FenceError as error:
            raise CheckpointError(f"{self.name}: its chat template fails ({error}); use another one") from None


def today() -> str:
    """Return today's date in local time, as YYYY-MM-DD."""
    return datetime.now(UTC).astimezone().date().isoformat()


def special_texts(directory: Path) -> dict[str, str]:
    """Return the texts of special tokens by the names under which a template reads them.

    transformers reads special_tokens_map.json only if the tokenizer config has no `added_tokens_decoder`; so does this.
    """
    config = portable(json_if_there(directory / "tokenizer_config.json"))
    if "added_tokens_decoder" not in config:
        config |= portable(json_if_there(directory / "special_tokens_map.json"))
    config |= default_tokens(directory, config)
    named = {key: value for key, value in config.items() if key in SPECIAL or key.endswith("_token")}
    texts = {**named, **(config.get("extra_special_tokens") or {})}
    plain = {name: text.get("content") if isinstance(text, dict) else text for name, text in texts.items()}
    return {name: text for name, text in plain.items() if isinstance(text, str)}
