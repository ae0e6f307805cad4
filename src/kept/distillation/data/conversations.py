"""Render conversations, rows with a list of messages, by a chat template and mark the answers to train on."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from kept.checkpoint.chat_template import Conversation, Template
from kept.checkpoint.template_worker import BEGIN, END
from kept.errors import InputError, printable
from kept.setting_types import nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

ASSISTANT = "assistant"

ROLES = ("system", "developer", "user", ASSISTANT, "tool")

KEYS = (("role", "content"), ("from", "value"))
"""The keys for role and content of a message, in the OpenAI and the ShareGPT format."""

OTHER_ROLES = {"human": "user", "gpt": ASSISTANT, "observation": "tool", "function_call": ASSISTANT}
"""Roles of the ShareGPT format, and the role that each one stands for."""

MESSAGE_KEYS = {"role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "reasoning", "thinking"}
"""Keys of a message that chat templates commonly read; a template may read others."""

LOSS_KEYS = ("weight", "train", "loss")
"""Keys of a message that include it in the loss (1 or true) or exclude it (0 or false)."""

ROW_KEYS = ("tools", "documents", "chat_template_kwargs")
"""Keys of a row that are passed to the template besides the messages; the last maps template variables to values."""

MISPLACED_KEYS = (*LOSS_KEYS, "system", "functions", "function_call", "mask")
"""Keys of a row that belong in its messages and are refused next to them."""

TEXTS = {"text", "thinking"}
"""Types of content parts that are text."""


class RenderedConversation(NamedTuple):
    """The text of a conversation, and the ranges of its characters that count for the loss, as (first, end)."""

    text: str
    answers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class ConversationRenderer:
    """Renders conversations by a chat template."""

    template: Template

    def columns(self, field: str, there: Collection[str]) -> list[str]:
        """Return the columns of a table, among `there`, that a conversation depends on."""
        asked = {*ROW_KEYS, *MISPLACED_KEYS, *self.template.variables}
        return [field, *(name for name in there if name in asked and name != field)]

    def read(self, row: Mapping[str, Any], field: str = "messages") -> RenderedConversation:
        """Render a row with a list of messages in `field`.

        Raises InputError for an invalid conversation; the message does not name the file or line.
        """
        if not row[field]:
            raise InputError("the conversation is empty; remove it")
        said = [self._message(one, number) for number, one in enumerate(row[field], 1)]
        messages = [message for message, _ in said]
        if messages[0]["role"] == ASSISTANT:
            raise InputError("the conversation begins with an assistant message; begin it with a user message")
        conversation = self._conversation(row, field, messages)
        if any(mark in text for text in _texts(conversation.to_dict()) for mark in (BEGIN, END)):
            raise InputError("the conversation contains U+FDD0 or U+FDD1, which are not characters; remove them")
        text, answers = self.template.answers(conversation, [trained for _, trained in said])
        return RenderedConversation(text, tuple(answers))

    def _conversation(self, row: Mapping[str, Any], field: str, messages: list[dict[str, Any]]) -> Conversation:
        """Return the messages with tools, documents and template variables. Other keys of a row are metadata."""
        for key in row.keys() - {field, *ROW_KEYS}:
            if row[key] is None:
                continue
            if key in MISPLACED_KEYS:
                raise InputError(f"{key!r} stands next to the messages; move it into the messages")
            if key in self.template.variables:
                raise InputError(
                    f"{key!r}, which the chat template reads, stands next to the messages; move it into {ROW_KEYS[2]}"
                )
        tools, documents = (_listed(row, key) for key in ROW_KEYS[:2])
        variables = row.get(ROW_KEYS[2]) or {}
        taken = {"messages", "add_generation_prompt", *ROW_KEYS[:2]}
        if not isinstance(variables, dict) or taken & variables.keys():
            without = ", ".join(sorted(taken))
            raise InputError(f"{ROW_KEYS[2]} is {_short(variables)}; it must be an object without {without}")
        return Conversation(messages, tools, documents, variables)

    def _message(self, one: object, number: int) -> tuple[dict[str, Any], bool]:
        """Return a message with the keys that templates read, and whether it counts for the loss."""
        names = next((names for names in KEYS if isinstance(one, dict) and names[0] in one), None)
        if not isinstance(one, dict) or names is None:
            raise InputError(f'message {number} is {_short(one)}; write it as {{"role": ..., "content": ...}}')
        role, content = (one.get(name) for name in names)
        if role == "function_call" and names[0] == "from":
            message: dict[str, Any] = {"role": ASSISTANT, "content": "", "tool_calls": _calls(content, number)}
        else:
            message = {"role": self._role(role), "content": content}
        rest = {key: value for key, value in one.items() if key not in {*names, *LOSS_KEYS} and value is not None}
        unknown = next((key for key in rest if key not in MESSAGE_KEYS and key not in self.template.words), None)
        if unknown is not None:
            near = nearest(unknown, sorted({*MESSAGE_KEYS, *LOSS_KEYS})) if isinstance(unknown, str) else ""
            raise InputError(
                f"message {number} has the key {printable(str(unknown))!r}, which neither kept nor the chat template "
                f"reads{near or '; remove it'}"
            )
        message = {**rest, **message}
        _check_content(message, names[1], number)
        return message, _is_trained(one, message["role"], number)

    def _role(self, role: object) -> str:
        known = OTHER_ROLES.get(role, role) if isinstance(role, str) else None
        if not isinstance(known, str) or (known not in ROLES and known not in self.template.words):
            near = nearest(str(role), ROLES)
            raise InputError(f"a message has the role {_short(role)}{near}; it must be one of {', '.join(ROLES)}")
        return known


def _check_content(message: Mapping[str, Any], called: str, number: int) -> None:
    """Raise InputError unless the content is text or a list of text parts; with tool calls it may be null."""
    content = message["content"]
    if isinstance(content, str) or (content is None and (message.get("tool_calls") or message.get("tool_plan"))):
        return
    if not isinstance(content, list) or not content:
        raise InputError(f"the {called} of message {number} is {_short(content)}; it must be text")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind not in TEXTS or not isinstance(part.get(kind), str | list):
            raise InputError(
                f"message {number} has a part that is not text: {_short(part)}; "
                'write each part as {"type": "text", "text": ...}'
            )


def _is_trained(message: Mapping[str, Any], role: str, number: int) -> bool:
    """Whether a message counts for the loss: by its own key, or, without one, every assistant message.

    Raises InputError for a value that is not a flag, for keys that disagree, and for a message of another role.
    """
    said = {key: message[key] for key in LOSS_KEYS if message.get(key) is not None}
    for key, value in said.items():
        if value not in (0, 1):
            raise InputError(f"message {number} has {key} {_short(value)}; it must be 0 or 1, or false or true")
        if value and role != ASSISTANT:
            raise InputError(
                f"message {number}, of the role {role}, has {key} {_short(value)}; only assistant messages are trained"
            )
    if len({bool(value) for value in said.values()}) > 1:
        raise InputError(f"message {number} has {' and '.join(said)}, which disagree; keep one")
    return role == ASSISTANT and all(said.values())


def _calls(value: object, number: int) -> list[dict[str, Any]]:
    """Return the tool calls of a ShareGPT `function_call`: JSON of one call or of a list of calls."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        found = None
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(isinstance(call, dict) and isinstance(call.get("name"), str) for call in calls):
        raise InputError(
            f"the value of message {number} is {_short(value)}; write a tool call as "
            '{"name": ..., "arguments": {...}}'
        )
    return [{"type": "function", "function": call} for call in calls]


def _listed(row: Mapping[str, Any], key: str) -> list[dict[str, Any]] | None:
    """Return the list of objects under a key of a row, or None; parquet files often store it as a JSON string."""
    value = row.get(key)
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        found = value
    if found is None or (isinstance(found, list) and all(isinstance(one, dict) for one in found)):
        return found
    raise InputError(f"{key} is {_short(value)}; it must be a list of objects")


def _texts(value: object) -> Iterator[str]:
    """Yield every string within a JSON value, keys included."""
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
