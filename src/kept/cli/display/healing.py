"""Output of `kept heal` and `kept cache-teacher`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from kept.cli.display.console import hint, make_table, printer
from kept.cli.display.verification import verification
from kept.formatting import amount, parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

    from kept.commands.heal_run import HealResult
    from kept.commands.write_teacher_cache import CachedTeacher
    from kept.distillation.train.measurement import GroupHistory


def cache_table(done: CachedTeacher) -> dict[str, Any]:
    """A teacher's cache as plain data."""
    return {"out": str(done.path), "bytes": done.nbytes, **done.about}


def cached_teacher(done: CachedTeacher) -> None:
    """`kept cache-teacher`: path and size, and for several k the error of the top-k KL."""
    console = printer()
    k, bias = done.about["k"], done.about["bias"]
    console.print(f"{done.path}: {amount(done.nbytes, 'bytes')}, top {k} tokens per position")
    table = make_table("k", "probability left out", "top-k KL, nats/token", "full KL", "gradient error")
    for one in bias["by_k"]:
        figures = f"{100 * one['tail']:.3g} %", f"{one['listed']:.4g}", f"{one['full']:.4g}"
        table.add_row(str(one["k"]), *figures, f"{100 * one['gradient']:.2g} %")
    console.print(table)
    console.print(f"against {bias['against']}, on {amount(bias['tokens'], 'held-out tokens')}")


def healed(done: HealResult) -> None:
    """`kept heal`: held-out losses before and after, then the comparison with the teacher."""
    from kept.distillation.train.end_to_end import STUDENT
    from kept.output.heal_summary import NOTHING_BETTER

    console = printer()
    console.print(f"{done.path}: written")
    if done.kl is not None:
        console.print(
            f"KL from the teacher: {done.kl.before:.4g} -> {done.kl.after:.4g} nats per token, "
            f"on {done.kl.tokens:,} held-out tokens"
        )
    console.print(_of_student(done) if STUDENT in done.groups else of_groups(done.groups))
    if all(one.best is one.measurements[0] for one in done.groups.values()):
        console.print(f"{NOTHING_BETTER} A lower --learning-rate or more --tokens may help.")
    hint(f"metrics: {done.run}")
    console.print(f"{parameters(done.trained.parameters)} of {parameters(done.trained.of)} parameters were trained")
    if done.verification is not None:
        verification(done.verification, source="the teacher")


def _of_student(done: HealResult) -> Table:
    """Return the losses of the student before and after."""
    from kept.output.heal_summary import displayed_losses

    first, best = done.history[0], done.best
    table = make_table("held-out", "before", f"after {amount(best.tokens, 'tokens')}")
    listed = " of the top-k tokens" if "teacher_cache" in done.record["healed"] else ""
    for name in displayed_losses(first.losses):
        value = first.losses[name]
        table.add_row(f"{name}{listed if name == 'kl' else ''}, nats/token", f"{value:.4g}", f"{best.losses[name]:.4g}")
    for name, found in first.eval_data.items():
        table.add_row(
            f"{name} (evaluation data): ce, nats/token", f"{found['ce']:.4g}", f"{best.eval_data[name]['ce']:.4g}"
        )
    if not math.isnan(first.agreement):
        table.add_row("top-1 agreement", f"{100 * first.agreement:.2f} %", f"{100 * best.agreement:.2f} %")
    return table


def of_groups(groups: Mapping[str, GroupHistory]) -> Table:
    """Return the loss of each parameter group before and at its best, and why a group was stopped."""
    table = make_table("group", "before", "best", "after step", "stopped")
    for name, one in groups.items():
        losses = f"{one.measurements[0].losses['loss']:.4g}", f"{one.best.losses['loss']:.4g}"
        table.add_row(name, *losses, str(one.best.step), one.stopped or "")
    return table
