"""What is written to a terminal: lines without control characters, and rich's console for tables and bars."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from kept.errors import shown

if TYPE_CHECKING:
    from rich.text import Text


def hint(message: str) -> None:
    """One line on stderr that is no error."""
    click.echo(shown(message), err=True)


def printer(*, stderr: bool = False) -> Any:  # noqa: ANN401 - rich is imported late
    """Return the console for tables and lines, on stdout or stderr."""
    from rich.console import Console  # noqa: PLC0415 - imported when something is shown

    class Shown(Console):
        """A console that escapes control characters in the text of models and files."""

        def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - as in rich
            return super().render_str(shown(text), **options)

    if stderr:
        return Shown(stderr=True, markup=False, emoji=False, highlight=False)
    width = None if sys.stdout.isatty() else 110
    return Shown(width=width, markup=False, emoji=False, highlight=False, soft_wrap=True)
