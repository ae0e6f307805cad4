"""`--force`: replace an existing output, and keep the old one as a backup."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from kept.checkpoint.backup import replacing
from kept.cli.display.console import hint
from kept.reporting import shows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORCE = click.option(
    "--force",
    is_flag=True,
    help="Replace OUT if it exists. The old output is renamed to OUT.backup-1, or the next free number.",
)


def refuse_force(*, force: bool) -> None:
    """Raise UsageError for --force in a dry run."""
    if force:
        raise click.UsageError("--dry-run replaces nothing; leave out --force.")


@contextmanager
def replaced(out: str | Path, asked: object, *, force: bool) -> Iterator[None]:
    """Run the block with `out` moved aside if `force`, and say where it is."""
    with replacing(out, force=force and shows(), asked=asked) as backup:
        yield
        if backup is not None:
            hint(f"{out}: replaced; the old output is now {backup}")
