"""Reference page of the command line: the help of every command."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kept.cli.root import main as cli

if TYPE_CHECKING:
    from collections.abc import Iterator


def commands(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and its subcommands, each with the words that call it."""
    yield path, command
    context = click.Context(command)
    for name in command.list_commands(context) if isinstance(command, click.Group) else ():
        below = command.get_command(context, name)
        assert below is not None, name
        yield from commands(f"{path} {name}", below)


def page() -> str:
    """Return the page: the help of every command."""
    out = ["# Command line", "", "Generated from the code by `docs/generate.py`.", ""]
    for path, command in commands("kept", cli):
        context = click.Context(command, info_name=path, max_content_width=100, terminal_width=100)
        out += [f"## `{path}`", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(out)
