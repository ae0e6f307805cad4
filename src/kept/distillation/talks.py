"""Conversations to learn answers from: lists of messages, as the text that a chat template makes of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from kept.checkpoint.chat import BEGIN, END, Template
from kept.errors import InputError
from kept.toml import nearest

if TYPE_CHECKING:
    from collections.abc import Mapping

ROLES = ("system", "developer", "user", "assistant", "tool")

KEYS = (("role", "content"), ("from", "value"))
"""What the two forms of a message call who says what."""

OTHER_ROLES = {"human": "user", "gpt": "assistant"}
"""Roles as the second form has them."""


class Talk(NamedTuple):
    """The text of a conversation, and the characters of it that are the assistant's."""

    text: str
    answers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Talks:
    """Reads conversations as a chat template writes them."""

    template: Template

    def read(self, conversation: list[Any]) -> Talk:
        """A list of messages as text. Raises InputError that says what is wrong with it, without saying where it is."""
        if not conversation:
            raise InputError("is an empty conversation; leave it out")
        messages = [_message(one, number) for number, one in enumerate(conversation, 1)]
        if messages[0]["role"] == "assistant":
            raise InputError("begins with an answer; begin it with what is answered")
        text, answers = self.template.answers(messages)
        return Talk(text, tuple(answers))


def _message(one: object, number: int) -> Mapping[str, Any]:
    """A message with its role and content under these names, and whatever else is in it."""
    names = next((names for names in KEYS if isinstance(one, dict) and names[0] in one), None)
    if not isinstance(one, dict) or names is None:
        raise InputError(
            f'has no message as its number {number} but {_short(one)}; write it as {{"role": ..., "content": ...}}'
        )
    role, content = (one.get(name) for name in names)
    known = OTHER_ROLES.get(role, role) if isinstance(role, str) else None
    if known not in ROLES:
        near = nearest(str(role), ROLES)
        raise InputError(f"has a message of the role {_short(role)}{near}; it must be one of {', '.join(ROLES)}")
    if not isinstance(content, str):
        raise InputError(f"has no text as the {names[1]} of message {number} but {_short(content)}; mend it")
    if BEGIN in content or END in content:
        raise InputError(f"has U+FDD0 or U+FDD1 in message {number}, which are no characters; take them out")
    rest = {key: value for key, value in one.items() if key not in names}
    return {"role": known, "content": content, **rest}


def _short(value: object) -> str:
    return json.dumps(value, default=str)[:40]
