"""A conversation as a prompt in a plain form, for models without a chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    Messages = Sequence[dict[str, str]]

STOPS = ("\nQuestion:",)
"""Stop texts of an answer: the model would continue with the next question."""


def plain(messages: Messages) -> str:
    """Return a prompt of alternating questions and answers that ends in `Answer:`."""
    names = {"user": "Question", "assistant": "Answer"}
    return "".join(f"{names[m['role']]}: {m['content']}\n\n" for m in messages) + "Answer:"
