"""Groups that import a command when it runs, and turn errors into one line and an exit code."""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from kept.cli.display import console
from kept.errors import KeptError, cause, refusal
from kept.interruption import Terminated, terminable

if TYPE_CHECKING:
    from collections.abc import Mapping

HELP_OPTIONS = ["-h", "--help"]

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes: 128 plus the number of the signal, as in shells."""


@dataclass(frozen=True)
class CommandEntry:
    """A command's module, whose `command` is the click command, and its summary in --help."""

    module: str
    summary: str

    def load(self) -> click.Command:
        """Import the command. -h is help, also for a command that runs without the outermost group."""
        command = importlib.import_module(self.module).command
        assert isinstance(command, click.Command)
        for one in (command, *(command.commands.values() if isinstance(command, click.Group) else ())):
            one.context_settings.setdefault("help_option_names", HELP_OPTIONS)
        return command


class LazyGroup(click.Group):
    """A group of commands that are imported when they are used. --help and completion use the summaries."""

    def __init__(self, *args: Any, entries: Mapping[str, CommandEntry], **options: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(*args, **options)
        self.entries = entries

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names of the commands, in the order of --help."""
        return [*self.entries]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command. Returns None if there is none of this name."""
        return self.entries[cmd_name].load() if cmd_name in self.entries else super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the names and summaries, without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.entries.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return the commands and options that begin with `incomplete`, without importing a command."""
        names = [
            CompletionItem(name, help=e.summary) for name, e in self.entries.items() if name.startswith(incomplete)
        ]
        return [*names, *click.Command.shell_complete(self, ctx, incomplete)]


class ErrorReporting(LazyGroup):
    """The outermost group: errors that users can act on become one line on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - of any command
        """Run a command."""
        console.take_any_name()
        try:
            with terminable():
                return super().invoke(ctx)
        except KeptError as error:
            console.complain(str(error))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt as error:
            console.complain(str(error) or "interrupted; the same command continues")
            ctx.exit(TERMINATED if isinstance(error, Terminated) else INTERRUPTED)
        except (BrokenPipeError, click.ClickException, click.Abort, click.exceptions.Exit):
            raise  # click reports these, or the reader of the output is gone
        except Exception as error:
            if "KEPT_DEBUG" in os.environ:
                raise
            refused = refusal(error) if isinstance(error, OSError) else None
            console.complain(refused or f"{cause(error)} (KEPT_DEBUG=1 shows where)")
            ctx.exit(2)
