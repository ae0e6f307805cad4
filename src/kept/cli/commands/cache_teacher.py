"""`kept cache-teacher`."""

from __future__ import annotations

from typing import Any

import click

from kept.cli.display import healing
from kept.cli.display.console import out_json
from kept.cli.display.progress import ProgressBars
from kept.cli.options import JSON, SettingsCommand, folders, given, settings
from kept.distillation.settings import LISTED, HealSettings

SHARED = (
    "data",
    "text_field",
    "chat",
    "chat_template",
    "chat_date",
    "mixture",
    "hold_out",
    "tokens",
    "batch_size",
    "sequence_length",
    "temperature",
    "sample_temperatures",
    "precision",
    "seed",
)
"""Settings of `kept heal` that decide what a cache holds."""


@click.command("cache-teacher", cls=SettingsCommand)
@click.argument("teacher", shell_complete=folders)
@click.option("--out", required=True, metavar="DIR", shell_complete=folders, help="Output directory.")
@click.option("--k", default=LISTED, show_default=True, help="Tokens kept per position, the most likely ones.")
@click.option(
    "--student",
    metavar="DIR",
    shell_complete=folders,
    help="Measure the bias of keeping k tokens with this student. [default: the teacher without its last layer]",
)
@settings(HealSettings, *SHARED)
@JSON
def command(teacher: str, student: str | None, k: int, *, as_json: bool, **options: Any) -> None:
    """Write a teacher's most likely tokens, to heal without running it.

    Runs TEACHER once over the texts and writes its k most likely tokens at each position to OUT, with the bias that
    leaving out the others causes. kept heal --teacher-cache OUT then needs no teacher. Its data, sequence length,
    held-out part and temperature must be the same; the order of the texts may differ.

    An interrupted run continues if the command is run again.

    \b
    kept cache-teacher path/to/orion --data corpus/ --tokens 2M --out out/teacher
    kept heal out/plain --teacher-cache out/teacher --data corpus/ --tokens 2M --out out/healed
    """
    from kept.commands.cache_teacher import cache_teacher

    asked = HealSettings.from_table({"student": student or teacher, "teacher": teacher}, **given(options))
    done = cache_teacher(asked, k, ProgressBars())
    out_json(healing.cache_table(done)) if as_json else healing.cached_teacher(done)
