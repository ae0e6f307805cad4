"""Renders chat templates, in a fenced process: a template is a program that came with the weights.

The environment is that of `apply_chat_template` in transformers 5: Jinja's immutable sandbox with loop controls, the
`generation` tag, `raise_exception`, `strftime_now` and a `tojson` that does not escape for web pages. Only the clock
differs: `strftime_now` tells a date that is given, so that a conversation is the same text each time it is rendered.
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
"""What stands around a part that the template itself marks as the assistant's: no text has these, which are no
characters."""

MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
"""What a template has that marks answers."""

LONGEST = 1 << 26
"""Characters of a rendered conversation."""

REASONING = ("reasoning_content", "thinking", "reasoning")
"""Names of a message's reasoning; a template reads one of the first two."""


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


class Renderer:
    """The templates of a checkpoint.

    `name` is what to call it in errors, `templates` are texts by name, `tokens` the texts of special tokens, `date` is
    today's as YYYY-MM-DD. A conversation is an object with `messages`, and `tools`, `documents` and `variables` where
    it has them.
    """

    def __init__(self, name: str, templates: Mapping[str, str], tokens: Mapping[str, str], date: str) -> None:
        self._name, self._tokens = name, tokens
        self._environment = _environment(datetime.fromisoformat(date))
        self._texts = templates
        self._compiled: dict[str, jinja2.Template] = {}

    def names(self) -> list[list[str]]:
        """Variables that the templates read, and attributes and texts that appear in them.

        Raises CheckpointError where a template is no template.
        """
        variables: set[str] = set()
        others: set[str] = set()
        for text in self._texts.values():
            try:
                tree = self._environment.parse(text)
            except Exception as error:  # noqa: BLE001 - as below
                raise self._failed(error) from None
            variables |= find_undeclared_variables(tree)
            others |= {node.attr for node in tree.find_all(nodes.Getattr)}
            others |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
        return [sorted(variables), sorted(others)]

    def text(self, conversation: Mapping[str, Any]) -> str:
        """A conversation as text."""
        return _unmarked(self._render(conversation, conversation["messages"], prompt=False))[0]

    def prompt(self, conversation: Mapping[str, Any]) -> str:
        """A conversation as text, with what makes the assistant answer at its end."""
        return _unmarked(self._render(conversation, conversation["messages"], prompt=True))[0]

    def answers(self, conversation: Mapping[str, Any], learned: Sequence[bool]) -> tuple[list[Any], bytes]:
        """A conversation as text (the bytes), and the characters in it that the assistant says and that are learned.

        `learned` says of each message whether it is. Raises InputError where an answer cannot be told from the rest.
        """
        messages = conversation["messages"]
        said = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
        wanted = [turn for turn in said if learned[turn]]
        marked = self._render(conversation, messages, prompt=False)
        if MARKS.search(self._texts[self._chosen(conversation)]):
            text, spans = _unmarked(marked)
            if wanted != said:
                spans = self._learned(spans, [learned[turn] for turn in said])
        else:
            text, spans = marked, [self._answer(marked, conversation, turn) for turn in wanted]
        return [list(span) for span in spans], text.encode("utf-8", "surrogatepass")

    def _learned(self, spans: list[tuple[int, int]], learned: Sequence[bool]) -> list[tuple[int, int]]:
        if len(spans) != len(learned):
            raise InputError(
                f"has messages that are not learned among {len(learned)} answers, and {self._name} marks "
                f"{len(spans)} parts as answers; give a --chat-template that marks each answer once"
            )
        return [span for span, kept in zip(spans, learned, strict=True) if kept]

    def _answer(self, whole: str, conversation: Mapping[str, Any], turn: int) -> tuple[int, int]:
        """From where to where an answer is in the whole conversation."""
        messages = conversation["messages"]
        before = self._render(conversation, messages[:turn], prompt=True)
        after = self._render(conversation, messages[: turn + 1], prompt=False)
        if not (whole.startswith(after) and after.startswith(before)):
            raise InputError(
                f"is another text for {self._name} with each turn, so that answer {turn + 1} cannot be told from the "
                "rest; mark answers with {% generation %} in a template for --chat-template"
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
        except KeptErrors:
            raise
        except Exception as error:  # noqa: BLE001 - a template is a program, and fails as one
            raise self._failed(error) from None
        if len(text) > LONGEST:
            raise CheckpointError(f"{self._name}: its chat template writes {len(text)} characters; use another one")
        return text

    def _chosen(self, conversation: Mapping[str, Any]) -> str:
        """The name of the template for a conversation."""
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


KeptErrors = (CheckpointError, InputError)

LONGEST_REASON = 300
"""Characters."""


def _environment(now: datetime) -> ImmutableSandboxedEnvironment:
    extensions = [Generation, "jinja2.ext.loopcontrols"]
    made = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    made.globals["raise_exception"] = _refuse
    made.globals["strftime_now"] = now.strftime
    made.filters["tojson"] = _to_json
    return made


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without what is null, and with its reasoning under the names that templates read."""
    stated = {key: value for key, value in message.items() if value is not None}
    found = next((stated[key] for key in REASONING if key in stated), None)
    return stated if found is None else {"thinking": found, **stated, "reasoning_content": found}


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


def _to_json(
    x: object,
    ensure_ascii: bool = False,  # noqa: FBT001, FBT002 - transformers' own
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,  # noqa: FBT001, FBT002 - the same
) -> str:
    """JSON as it is: jinja's own filter writes it for web pages."""
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
