"""Lines, tables and JSON on the terminal: data on stdout, everything else on stderr."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import asdict, is_dataclass
from typing import TYPE_CHECKING

import click

from kept.errors import UNSHOWN, printable
from kept.terminal import hint, printer

if TYPE_CHECKING:
    from rich.table import Table


__all__ = ["complain", "hint", "make_table", "out_json", "printer", "take_any_name"]


def complain(message: str) -> None:
    """One line on stderr."""
    line = printable(message)
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    click.echo(click.style(f"kept: {line}", fg="red") if coloured else f"kept: {line}", err=True)


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


def make_table(*columns: str) -> Table:
    """Return a table with these columns."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for name in columns:
        table.add_column(name, overflow="fold")
    return table
