"""Lines, tables and JSON on the terminal: data on stdout, everything else on stderr."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING, Any

import click

from kept.errors import UNSHOWN, printable, shown

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


def complain(message: str) -> None:
    """One line on stderr."""
    line = printable(message)
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    click.echo(click.style(f"kept: {line}", fg="red") if coloured else f"kept: {line}", err=True)


def hint(message: str) -> None:
    """One line on stderr that is no error."""
    click.echo(shown(message), err=True)


def out_json(value: object) -> None:
    """JSON on stdout, with null for NaN and infinity, which JSON does not have."""
    from kept.checkpoint.json_file import finite

    plain = [asdict(v) for v in value] if isinstance(value, list) else value
    table = asdict(plain) if is_dataclass(plain) and not isinstance(plain, type) else plain
    text = json.dumps(finite(table), indent=2, ensure_ascii=False, allow_nan=False)
    click.echo(UNSHOWN.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def take_any_name() -> None:
    """Let stdout show file names that are not text: spelled out, which in JSON is an escape."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def printer(*, stderr: bool = False) -> Any:  # noqa: ANN401 - rich is imported late
    """Return the console for tables and lines, on stdout or stderr."""
    from rich.console import Console

    class Shown(Console):
        """A console that escapes control characters in the text of models and files."""

        def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - as in rich
            return super().render_str(shown(text), **options)

    if stderr:
        return Shown(stderr=True, markup=False, emoji=False, highlight=False)
    width = None if sys.stdout.isatty() else 110
    return Shown(width=width, markup=False, emoji=False, highlight=False, soft_wrap=True)


def make_table(*columns: str) -> Table:
    """Return a table with these columns."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
