"""A checkpoint's chat template: a conversation as the text that its model is to read.

A template is a text that came with the weights. It is rendered in Jinja's sandbox, which reaches no files and no code,
and only where it is asked for. It is given what transformers gives it, but the date: the same conversation is the same
text on any day.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kept.checkpoint.reader import read_json
from kept.errors import CheckpointError, InputError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from jinja2.parser import Parser

    Messages = Sequence[Mapping[str, Any]]

FILE = "chat_template.jinja"

BEGIN, END = "\ufdd0", "\ufdd1"
"""What stands around a part that the template itself marks as the assistant's: no text has these, which are no
characters."""

SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
"""Tokens whose texts a template may name."""


class Generation(Extension):
    """`{% generation %}`, with which a template marks what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own

    def parse(self, parser: Parser) -> nodes.Node:
        """The part up to `{% endgeneration %}`, between marks."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:  # noqa: ANN401 - a macro
        return f"{BEGIN}{caller()}{END}"


@dataclass(frozen=True)
class Template:
    """A chat template, called `name` where it fails; `tokens` has the texts of special tokens that it may name."""

    name: str
    text: str = field(repr=False)
    tokens: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, directory: Path, file: Path | None = None, tokens: Mapping[str, str] | None = None) -> Template | None:
        """The template of a checkpoint, or `file` for it; None where there is none.

        `tokens` are for those that its tokenizer config does not name. Raises InputError where `file` cannot be read.
        """
        text = stored(directory) if file is None else _read(file)
        if text is None:
            return None
        return cls(str(directory if file is None else file), text, {**(tokens or {}), **special_texts(directory)})

    def render(self, messages: Messages, *, prompt: bool = True) -> str:
        """A conversation as text, with what makes the assistant answer at its end (`prompt`).

        Raises CheckpointError where the template does not take the conversation.
        """
        return self._render(messages, prompt=prompt).replace(BEGIN, "").replace(END, "")

    def answers(self, messages: Messages) -> tuple[str, list[tuple[int, int]]]:
        """A conversation as text, and the characters in it that the assistant says, with what ends its turn.

        Those are what the template marks, or, where it marks nothing, from the end of the prompt for an answer to the
        end of the answer. Raises InputError where that cannot be told because the template changes earlier turns,
        CheckpointError where it does not take the conversation.
        """
        marked = self._render(messages, prompt=False)
        if BEGIN in marked:
            return _unmarked(marked)
        at = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        return marked, [self._answer(marked, messages, turn) for turn in at]

    def _answer(self, whole: str, messages: Messages, turn: int) -> tuple[int, int]:
        """From where to where an answer is in the whole conversation."""
        before = self._render(messages[:turn], prompt=True)
        after = self._render(messages[: turn + 1], prompt=False)
        if not (whole.startswith(after) and after.startswith(before)):
            raise InputError(
                f"is another text for {self.name} with each turn, so that answer {turn + 1} cannot be told from the "
                "rest; mark answers with {% generation %} in a template for --chat-template"
            )
        return len(before), len(after)

    def _render(self, messages: Messages, *, prompt: bool) -> str:
        try:
            return self._compiled.render(messages=list(messages), add_generation_prompt=prompt, **self.tokens)
        except FAILURES as error:
            raise self._failed(error) from None

    @cached_property
    def _compiled(self) -> jinja2.Template:
        extensions = [Generation, "jinja2.ext.loopcontrols"]
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        environment.globals["raise_exception"] = _refuse
        environment.filters["tojson"] = _to_json
        return environment.from_string(self.text)

    def _failed(self, error: Exception) -> CheckpointError:
        return CheckpointError(f"{self.name}: its chat template fails ({printable(str(error))})")


FAILURES = (jinja2.TemplateError, ArithmeticError, LookupError, RecursionError, TypeError, ValueError, AttributeError)
"""What a template trips over."""


def stored(directory: Path) -> str | None:
    """The text of a checkpoint's chat template; None where it has none."""
    file = directory / FILE
    if file.is_file():
        return _read(file)
    found = _config(directory, "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        found = next((one.get("template") for one in found if one.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def special_texts(directory: Path) -> dict[str, str]:
    """The texts of special tokens, as the tokenizer's config names them."""
    found = {**_config(directory, "special_tokens_map.json"), **_config(directory, "tokenizer_config.json")}
    texts = {name: found.get(name) for name in SPECIAL}
    plain = {name: text.get("content") if isinstance(text, dict) else text for name, text in texts.items()}
    return {name: text for name, text in plain.items() if isinstance(text, str)}


def _config(directory: Path, name: str) -> dict[str, Any]:
    return read_json(directory / name) if (directory / name).is_file() else {}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}); name a file with a chat template") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: is not UTF-8 text ({error.reason}); name a file with a chat template") from None


def _unmarked(marked: str) -> tuple[str, list[tuple[int, int]]]:
    """A text without marks, and where they stood."""
    first, *rest = marked.split(BEGIN)
    text, spans = first, []
    for part in rest:
        said, _, behind = part.partition(END)
        spans.append((len(text), len(text) + len(said)))
        text += said + behind
    return text, spans


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(value: object, indent: int | None = None, **options: Any) -> str:  # noqa: ANN401 - json's own
    """JSON as it is: jinja's own filter writes it for web pages."""
    return json.dumps(value, indent=indent, ensure_ascii=options.pop("ensure_ascii", False), **options)
