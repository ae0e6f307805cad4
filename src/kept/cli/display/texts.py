"""Output of `kept generate` and `kept report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kept.errors import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.commands.chat import Chat
    from kept.commands.generate import GeneratedText
    from kept.pages.page import Report


def generations(texts: Sequence[GeneratedText]) -> None:
    """`kept generate`: prompt and continuation, a blank line between."""
    click.echo(shown("\n\n".join(text.prompt + text.text for text in texts)))


def said(prompt: str) -> None:
    """The user's turn, before its answer."""
    click.echo(shown(f"> {prompt}"))


def answer(talk: Chat, prompt: str) -> None:
    """The next answer of a conversation, as it is generated."""
    talk.say(prompt, lambda piece: click.echo(shown(piece), nl=False))
    click.echo()


def reported(done: Report) -> None:
    """`kept report`."""
    click.echo(shown(f"{done.path}: written ({', '.join(done.sections)})"))
