"""Conversations to learn answers from: rows with a list of messages, as the text that a chat template makes of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from kept.checkpoint.chat import Conversation, Template
from kept.checkpoint.rendering import BEGIN, END
from kept.errors import InputError, printable
from kept.toml import nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

ASSISTANT = "assistant"

ROLES = ("system", "developer", "user", ASSISTANT, "tool")

KEYS = (("role", "content"), ("from", "value"))
"""What the two forms of a message call who says what."""

OTHER_ROLES = {"human": "user", "gpt": ASSISTANT, "observation": "tool", "function_call": ASSISTANT}
"""Roles as the second form has them."""

SAID = {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking"}
"""Keys of a message that templates read; a template may read others."""

LEARNED = ("weight", "train", "loss")
"""Keys of a message that say whether it is learned: 1 or true, 0 or false."""

BESIDE = ("tools", "documents", "chat_template_kwargs")
"""Keys of a row that a template is given beside the messages; the last has names and values of its variables."""

OF_A_ROW = (*LEARNED, "system", "functions", "function_call", "mask")
"""Keys of a row that mean something for its messages, which have a place of their own for it."""

TEXTS = {"text", "thinking"}
"""Types of a content's parts that are text."""


class Talk(NamedTuple):
    """The text of a conversation, and the characters of it that are learned."""

    text: str
    answers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Talks:
    """Reads conversations as a chat template writes them."""

    template: Template

    def columns(self, field: str, there: Collection[str]) -> list[str]:
        """The columns of a table that a conversation depends on."""
        asked = {*BESIDE, *OF_A_ROW, *self.template.variables}
        return [field, *(name for name in there if name in asked and name != field)]

    def read(self, row: Mapping[str, Any], field: str = "messages") -> Talk:
        """A row with a list of messages in `field`, as text.

        Raises InputError that says what is wrong with it, without saying where it is.
        """
        if not row[field]:
            raise InputError("is an empty conversation; leave it out")
        said = [self._message(one, number) for number, one in enumerate(row[field], 1)]
        messages = [message for message, _ in said]
        if messages[0]["role"] == ASSISTANT:
            raise InputError("begins with an answer; begin it with what is answered")
        conversation = self._conversation(row, field, messages)
        if any(mark in text for text in _texts(conversation.to_dict()) for mark in (BEGIN, END)):
            raise InputError("has U+FDD0 or U+FDD1 in it, which are no characters; take them out")
        text, answers = self.template.answers(conversation, [learned for _, learned in said])
        return Talk(text, tuple(answers))

    def _conversation(self, row: Mapping[str, Any], field: str, messages: list[dict[str, Any]]) -> Conversation:
        """The messages with what is beside them. What else is in a row and no template asks for describes the row."""
        for key in row.keys() - {field, *BESIDE}:
            if row[key] is None:
                continue
            if key in OF_A_ROW:
                raise InputError(f"has {key!r} beside its messages; write it into the messages")
            if key in self.template.variables:
                raise InputError(
                    f"has {key!r} beside its messages, which the chat template reads; write it into {BESIDE[2]}"
                )
        tools, documents = (_listed(row, key) for key in BESIDE[:2])
        variables = row.get(BESIDE[2]) or {}
        taken = {"messages", "add_generation_prompt", *BESIDE[:2]}
        if not isinstance(variables, dict) or taken & variables.keys():
            raise InputError(f"has no names and values in {BESIDE[2]!r} but {_short(variables)}; mend it")
        return Conversation(messages, tools, documents, variables)

    def _message(self, one: object, number: int) -> tuple[dict[str, Any], bool]:
        """A message under the names that templates read, and whether it is learned."""
        names = next((names for names in KEYS if isinstance(one, dict) and names[0] in one), None)
        if not isinstance(one, dict) or names is None:
            raise InputError(
                f'has no message as its number {number} but {_short(one)}; write it as {{"role": ..., "content": ...}}'
            )
        role, content = (one.get(name) for name in names)
        if role == "function_call" and names[0] == "from":
            message: dict[str, Any] = {"role": ASSISTANT, "content": "", "tool_calls": _calls(content, number)}
        else:
            message = {"role": self._role(role), "content": content}
        rest = {key: value for key, value in one.items() if key not in {*names, *LEARNED} and value is not None}
        unknown = next((key for key in rest if key not in SAID and key not in self.template.words), None)
        if unknown is not None:
            near = nearest(unknown, sorted({*SAID, *LEARNED})) if isinstance(unknown, str) else ""
            raise InputError(
                f"has the key {printable(str(unknown))!r} in message {number}{near}; "
                "neither kept nor the chat template reads it: take it out"
            )
        message = {**rest, **message}
        _check_content(message, names[1], number)
        return message, _is_learned(one, message["role"], number)

    def _role(self, role: object) -> str:
        known = OTHER_ROLES.get(role, role) if isinstance(role, str) else None
        if not isinstance(known, str) or (known not in ROLES and known not in self.template.words):
            near = nearest(str(role), ROLES)
            raise InputError(f"has a message of the role {_short(role)}{near}; it must be one of {', '.join(ROLES)}")
        return known


def _check_content(message: Mapping[str, Any], called: str, number: int) -> None:
    """Content is text, or parts of which each is; a message with tool calls or reasoning may do without."""
    content = message["content"]
    if isinstance(content, str) or (content is None and (message.get("tool_calls") or message.get("tool_plan"))):
        return
    if not isinstance(content, list) or not content:
        raise InputError(f"has no text as the {called} of message {number} but {_short(content)}; mend it")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in TEXTS or not isinstance(part.get(kind), str | list):
            raise InputError(
                f"has a part that is no text in message {number}: {_short(part)}; "
                'write each part as {"type": "text", "text": ...}'
            )


def _is_learned(message: Mapping[str, Any], role: str, number: int) -> bool:
    """Whether a message is learned, as it says itself; answers that say nothing are."""
    said = {key: message[key] for key in LEARNED if message.get(key) is not None}
    for key, value in said.items():
        if value not in (0, 1):
            raise InputError(f"has {key} {_short(value)} in message {number}; it must be 0 or 1, or false or true")
        if value and role != ASSISTANT:
            raise InputError(f"has {key} {_short(value)} in message {number}, of {role}; only answers are learned")
    if len({bool(value) for value in said.values()}) > 1:
        raise InputError(f"has {' and '.join(said)} in message {number}, which disagree; leave one")
    return role == ASSISTANT and all(said.values())


def _calls(value: object, number: int) -> list[dict[str, Any]]:
    """The tool calls that ShareGPT writes as JSON: one, or a list of them."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        found = None
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise InputError(
            f"has no call as the value of message {number} but {_short(value)}; write it as "
            '{"name": ..., "arguments": {...}}'
        )
    return [{"type": "function", "function": call} for call in calls]


def _listed(row: Mapping[str, Any], key: str) -> list[dict[str, Any]] | None:
    """The objects under a key of a row; parquet often has them as JSON."""
    value = row.get(key)
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        found = value
    if found is None or (isinstance(found, list) and all(isinstance(one, dict) for one in found)):
        return found
    raise InputError(f"has no list of objects in {key!r} but {_short(value)}; mend it")


def _texts(value: object) -> Iterator[str]:
    """Every text within a JSON value."""
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, dict):
            left += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            left += one


def _short(value: object) -> str:
    return json.dumps(value, default=str)[:40]
