"""`kept completion`."""

from __future__ import annotations

import click
from click import shell_completion


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(context: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    kept completion bash >> ~/.bashrc
    kept completion zsh >> ~/.zshrc
    kept completion fish > ~/.config/fish/completions/kept.fish
    """
    kind = shell_completion.get_completion_class(shell)
    assert kind is not None, shell
    completion = kind(context.find_root().command, {}, "kept", "_KEPT_COMPLETE")
    click.echo(completion.source_template % completion.source_vars())  # `source()` starts the shell to get its version
