"""Commands as a user runs them: their names, their output, and the line that tells what is wrong."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import click
from click.testing import CliRunner

from kept.cli.root import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result


def below(path: str, command: click.Command) -> Iterator[str]:
    """The words that call a command, and all below it."""
    yield path
    context = click.Context(command)
    for name in command.list_commands(context) if isinstance(command, click.Group) else ():
        inner = command.get_command(context, name)  # type: ignore[attr-defined]
        assert inner is not None
        yield from below(f"{path} {name}".strip(), inner)


COMMANDS = sorted(below("", main))

ANSI = re.compile("\x1b")


def run(*arguments: object, typed: str | None = None) -> Result:
    """Run a command; `typed` is its standard input."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], input=typed)


def succeeds(*arguments: object) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert not ANSI.search(result.output)
    return result


def data(*arguments: object) -> Any:
    """Return the JSON that a command prints: stdout contains nothing else."""
    return json.loads(succeeds(*arguments, "--json").stdout)


def complains(*arguments: object, code: int = 2) -> str:
    """The one line on stderr of a command that fails; stdout is empty."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("kept: ")
    assert not ANSI.search(line)
    return line.removeprefix("kept: ")
