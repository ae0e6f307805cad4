"""`kept heal`."""

from __future__ import annotations

from typing import Any, get_args

import click

from kept.cli.display.console import out_json
from kept.cli.options import FILE, JSON, SettingsCommand, given, is_recipe, settings
from kept.cli.recipe_errors import recipe_in_errors
from kept.cli.replaced import FORCE, replaced
from kept.distillation.loss_setting import LOSS_HELP, Loss
from kept.distillation.settings import HealSettings
from kept.progress_bars import ProgressBars


@click.command("heal", cls=SettingsCommand)
@click.argument("student", metavar="STUDENT|RECIPE", type=FILE)
@click.option("--loss", metavar=f"[{'|'.join(get_args(Loss))}]", help=f"{LOSS_HELP} [default: kl]")
@settings(HealSettings, without=("student",))
@FORCE
@JSON
def command(student: str, *, as_json: bool, force: bool, **options: Any) -> None:
    """Train a converted model to match its source, or on new texts.

    By default the norms of STUDENT are trained with the KL divergence from its teacher, on texts that the teacher
    generates. --loss ce trains on texts alone, without a teacher; --loss ce --kl 0.1 --teacher MODEL also keeps the
    student close to MODEL (learning without forgetting, arXiv 1606.09282).

    --layerwise trains each branch that the conversion changed by itself, on the hidden states of the teacher: much
    cheaper per token, since no logits are computed, and a start for training as a whole.

    RECIPE is a TOML file with the student and any of these options as keys, with _ in place of -, such as
    teacher_cache. Options on the command line override it. torchrun shards both models over processes, or
    with --layerwise the branches. An interrupted run continues if the command is run again.

    \b
    kept heal out/plain --teacher path/to/orion --data corpus/ --train norms --tokens 2M --out out/healed
    kept heal out/plain --teacher path/to/orion --train norms+head --lr 3e-4 --out out/healed
    kept heal out/pro --train new --loss ce --data new-domain/ --tokens 20M --out out/pro-trained
    kept heal out/mla --teacher smollm2 --layerwise --data corpus/ --tokens 200K --out out/mla-healed
    kept heal recipe.toml --learning-rate 3e-4
    torchrun --nproc-per-node 2 -m kept heal recipe.toml
    """
    from kept.cli.display.heal_progress import HealProgress
    from kept.cli.display.healing import healed
    from kept.commands.heal import run_heal
    from kept.reporting import shows

    recipe = student if is_recipe(student) else None
    values = given(options)
    asked = HealSettings.load(recipe, **values) if recipe else HealSettings.from_table({"student": student}, **values)
    with (
        recipe_in_errors(recipe, student=asked.student, teacher=asked.teacher),
        replaced(asked.out, asked, force=force),
        HealProgress() as watch,
    ):
        done = run_heal(asked, ProgressBars(), watch, force=force)
    if shows():
        out_json(done.record) if as_json else healed(done)
