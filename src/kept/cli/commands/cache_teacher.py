"""`kept cache-teacher`."""

from __future__ import annotations

from typing import Any

import click

from kept.cli.display import healing
from kept.cli.display.console import out_json
from kept.cli.options import FOLDER, JSON, SettingsCommand, given, settings
from kept.commands.cache_teacher import SHARED
from kept.distillation.settings import HealSettings
from kept.distillation.settings_fields import LISTED
from kept.progress_bars import ProgressBars


@click.command("cache-teacher", cls=SettingsCommand)
@click.argument("teacher", type=FOLDER)
@click.option("--out", required=True, metavar="DIR", type=FOLDER, help="Output directory.")
@click.option("--top-k", default=LISTED, show_default=True, help="Number of most likely tokens to store per position.")
@click.option(
    "--student",
    metavar="DIR",
    type=FOLDER,
    help="Measure the bias of the top-k KL divergence with this student. [default: the teacher without its last layer]",
)
@settings(HealSettings, *SHARED)
@JSON
def command(teacher: str, student: str | None, top_k: int, *, as_json: bool, **options: Any) -> None:
    """Store a teacher's top-k probabilities, to heal without running the teacher.

    Runs TEACHER once over the texts and writes the most likely tokens at each position and their probabilities to OUT.
    kept heal --teacher-cache OUT then needs no teacher; its data, sequence length, held-out documents and temperature
    must be those of the cache, the order of the texts may differ. The bias of the top-k KL divergence is measured and
    shown.

    An interrupted run continues if the command is run again.

    \b
    kept cache-teacher path/to/orion --data corpus/ --tokens 2M --out out/teacher
    kept heal out/plain --teacher-cache out/teacher --data corpus/ --tokens 2M --out out/healed
    """
    from kept.commands.cache_teacher import run_cache_teacher

    asked = HealSettings.from_table({"student": student or teacher, "teacher": teacher}, **given(options))
    done = run_cache_teacher(asked, top_k, ProgressBars())
    out_json(healing.cache_table(done)) if as_json else healing.cached_teacher(done)
