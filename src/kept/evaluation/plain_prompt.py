"""A conversation as a prompt in a plain form, for models without a chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    Messages = Sequence[dict[str, str]]

STOPS = ("\nQuestion:",)
"""Where a plain answer ends if the model goes on to ask itself the next question."""


def plain(messages: Messages) -> str:
    """Questions and answers under each other, ready for the next answer."""
    names = {"user": "Question", "assistant": "Answer"}
    return "".join(f"{names[m['role']]}: {m['content']}\n\n" for m in messages) + "Answer:"
