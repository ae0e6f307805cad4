"""Output of `kept generate` and `kept report`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kept.errors import shown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kept.commands.generate import GeneratedText
    from kept.pages.page import Report


def generations(texts: Sequence[GeneratedText]) -> None:
    """`kept generate`: prompt and continuation, a blank line between."""
    click.echo(shown("\n\n".join(text.prompt + text.text for text in texts)))


def reported(done: Report) -> None:
    """`kept report`."""
    click.echo(shown(f"{done.path}: written ({', '.join(done.sections)})"))
