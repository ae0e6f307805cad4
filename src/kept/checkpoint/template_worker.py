"""Render chat templates. This runs in a fenced process, because a template is a program that comes with the weights.

The environment is that of `apply_chat_template` in transformers 5: Jinja's immutable sandbox with loop controls, the
`generation` tag, `raise_exception`, `strftime_now` and a `tojson` without HTML escapes. The one difference is that
`strftime_now` formats a given date, so that a conversation always renders to the same text.
"""

from __future__ import annotations

import json
import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment

from kept.checkpoint.templates import DEFAULT, TOOL_USE
from kept.errors import CheckpointError, InputError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jinja2.parser import Parser

    Messages = Sequence[Mapping[str, Any]]

BEGIN, END = "\ufdd0", "\ufdd1"
"""Marks around the text of a `{% generation %}` block: Unicode noncharacters, which no valid text contains."""

GENERATION_TAG = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""The tag of a template that marks the assistant's answers."""

LONGEST = 1 << 26
"""Characters of a rendered conversation."""

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys of a message's reasoning; templates read one of the first two."""


class GenerationTag(Extension):
    """The tag `{% generation %}`, with which a template marks the assistant's answers."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse up to `{% endgeneration %}`; return a block whose text is put between `BEGIN` and `END`."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_marked"), [], [], body).set_lineno(line)

    def _marked(self, caller: Any) -> str:  # noqa: ANN401 - a macro
        return f"{BEGIN}{caller()}{END}"


class Renderer:
    """Renders the chat templates of a checkpoint.

    `name` stands for the checkpoint in errors. `templates` are texts by name, `tokens` the texts of special tokens by
    name. `date` (YYYY-MM-DD) is the date that `strftime_now` formats. A conversation is an object with `messages` and
    optionally `tools`, `documents` and `variables`.
    """

    def __init__(self, name: str, templates: Mapping[str, str], tokens: Mapping[str, str], date: str) -> None:
        self._name, self._tokens = name, tokens
        self._environment = _environment(datetime.fromisoformat(date))
        self._texts = templates
        self._compiled: dict[str, jinja2.Template] = {}

    def names(self) -> list[list[str]]:
        """Return the variables that the templates read, and the attribute names and string constants in them.

        Raises CheckpointError for a template that cannot be parsed.
        """
        variables: set[str] = set()
        others: set[str] = set()
        for text in self._texts.values():
            try:
                tree = self._environment.parse(text)
            except Exception as error:  # noqa: BLE001 - any error of the parser
                raise self._failed(error) from None
            variables |= find_undeclared_variables(tree)
            others |= {node.attr for node in tree.find_all(nodes.Getattr)}
            others |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
        return [sorted(variables), sorted(others)]

    def text(self, conversation: Mapping[str, Any]) -> str:
        """Return a conversation as text."""
        return _unmarked(self._render(conversation, conversation["messages"], prompt=False))[0]

    def prompt(self, conversation: Mapping[str, Any]) -> str:
        """Return a conversation as text with the generation prompt at the end."""
        return _unmarked(self._render(conversation, conversation["messages"], prompt=True))[0]

    def answers(self, conversation: Mapping[str, Any], trained: Sequence[bool]) -> tuple[list[Any], bytes]:
        """Return the character spans [begin, end] of the answers to train on, and the conversation's text as bytes.

        `trained` has a flag per message. Raises InputError if an answer has no fixed place in the text.
        """
        messages = conversation["messages"]
        answers = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        wanted = [turn for turn in answers if trained[turn]]
        marked = self._render(conversation, messages, prompt=False)
        if GENERATION_TAG.search(self._texts[self._chosen(conversation)]):
            text, spans = _unmarked(marked)
            if wanted != answers:
                spans = self._trained(spans, [trained[turn] for turn in answers])
        else:
            text, spans = marked, [self._answer(marked, conversation, turn) for turn in wanted]
        return [list(span) for span in spans], text.encode("utf-8", "surrogatepass")

    def _trained(self, spans: list[tuple[int, int]], trained: Sequence[bool]) -> list[tuple[int, int]]:
        if len(spans) != len(trained):
            raise InputError(
                f"has {len(trained)} answers, some excluded from training, and the chat template of {self._name} marks "
                f"{len(spans)}; give a --chat-template that marks each answer once"
            )
        return [span for span, kept in zip(spans, trained, strict=True) if kept]

    def _answer(self, whole: str, conversation: Mapping[str, Any], turn: int) -> tuple[int, int]:
        """Return the span of an answer in the text of the whole conversation."""
        messages = conversation["messages"]
        before = self._render(conversation, messages[:turn], prompt=True)
        after = self._render(conversation, messages[: turn + 1], prompt=False)
        if not (whole.startswith(after) and after.startswith(before)):
            raise InputError(
                f"the chat template of {self._name} changes earlier turns, so the span of message {turn + 1} is "
                "unknown; mark answers with {% generation %} in a template for --chat-template"
            )
        return len(before), len(after)

    def _render(self, conversation: Mapping[str, Any], messages: Messages, *, prompt: bool) -> str:
        try:
            text = self._template(self._chosen(conversation)).render(
                messages=[_message(message) for message in messages],
                tools=conversation.get("tools"),
                documents=conversation.get("documents"),
                add_generation_prompt=prompt,
                **{**self._tokens, **conversation.get("variables", {})},
            )
        except KEPT_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 - a template is a program and may raise anything
            raise self._failed(error) from None
        if len(text) > LONGEST:
            raise CheckpointError(f"{self._name}: its chat template writes {len(text)} characters; use another one")
        return text

    def _chosen(self, conversation: Mapping[str, Any]) -> str:
        """Return the name of the template for a conversation. Raises InputError if there is no default."""
        name = TOOL_USE if conversation.get("tools") is not None and TOOL_USE in self._texts else DEFAULT
        if name not in self._texts:
            others = ", ".join(map(printable, self._texts))
            raise InputError(
                f"{self._name}: has chat templates called {others} and none called {DEFAULT}; "
                "give one with --chat-template FILE"
            )
        return name

    def _template(self, name: str) -> jinja2.Template:
        if name not in self._compiled:
            self._compiled[name] = self._environment.from_string(self._texts[name])
        return self._compiled[name]

    def _failed(self, error: Exception) -> CheckpointError:
        reason = printable(str(error)[:LONGEST_REASON]) or type(error).__name__
        return CheckpointError(f"{self._name}: its chat template fails ({reason})")


KEPT_ERRORS = (CheckpointError, InputError)

LONGEST_REASON = 300
"""Characters of a template's error that a message repeats."""


def _environment(now: datetime) -> ImmutableSandboxedEnvironment:
    extensions = [GenerationTag, "jinja2.ext.loopcontrols"]
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = now.strftime
    made.filters["tojson"] = _to_json
    return made


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message without null values, and with its reasoning under both keys that templates read."""
    stated = {key: value for key, value in message.items() if value is not None}
    found = next((stated[key] for key in REASONING if key in stated), None)
    return stated if found is None else {"thinking": found, **stated, "reasoning_content": found}


def _unmarked(marked: str) -> tuple[str, list[tuple[int, int]]]:
    """Return a text without marks, and the spans that were between them."""
    first, *rest = marked.split(BEGIN)
    text, spans = first, []
    for part in rest:
        inside, _, after = part.partition(END)
        spans.append((len(text), len(text) + len(inside)))
        text += inside + after
    return text, spans


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)


def _to_json(
    x: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - the signature of transformers
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002 - the same
) -> str:
    """Return plain JSON; Jinja's own filter escapes it for HTML."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
