"""Output of `kept run`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.cli.display.console import hint, make_table, printer
from kept.cli.display.conversion import conversion
from kept.cli.display.evaluation import evaluation
from kept.cli.display.healing import healed
from kept.cli.display.shrinking import shrunk
from kept.cli.display.texts import reported
from kept.cli.display.verification import verification

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.commands.recipe_steps import RecipeStep, StepRecipe
    from kept.commands.run_recipe import RecipeRun, Result


class RecipeDisplay:
    """Shows each step of a recipe like its command does. With `data`, prints one line per step, and JSON at the end.

    Models are named by their paths after the run, and by their steps if they are removed at its end.
    """

    def __init__(self, asked: StepRecipe, *, data: bool) -> None:
        self.asked, self.data = asked, data

    def begins(self, step: RecipeStep, count: int) -> None:
        """Print a heading on stdout, or on stderr if stdout is JSON."""
        named = f"{step.do} ({step.name})" if step.name != step.do else step.do
        heading = f"step {step.number} of {count}: {named}"
        if self.data:
            hint(heading)
        else:
            printer().print(f"\n{heading}", style="bold", markup=False)

    def ends(self, step: RecipeStep, result: Result | None) -> None:
        """Print the result of a step as its own command does."""
        if result is None:
            hint(f"step {step.number}: already finished")
        elif not self.data:
            _result(step, self._placed(step, result))

    def _placed(self, step: RecipeStep, result: Any) -> Any:  # noqa: ANN401 - of any kind of step
        from kept.commands.convert import Conversion
        from kept.commands.heal_run import HealResult
        from kept.commands.shrink import ShrinkResult

        if isinstance(result, ShrinkResult) and result.conversion is not None:
            return replace(result, conversion=self._placed(step, result.conversion))
        if not isinstance(result, Conversion | HealResult):
            return result
        return replace(result, path=self.asked.place(result.path) or Path(step.name))

    def notes(self, message: str) -> None:
        """Print a line on stderr."""
        hint(message)


def _result(step: RecipeStep, result: Any) -> None:  # noqa: ANN401 - of any kind of step
    if step.do == "shrink-expanded":
        shrunk(result, str(step.model))
        return
    shown: dict[str, Callable[[Any], None]] = {
        "expand": conversion,
        "convert": conversion,
        "heal": healed,
        "verify": verification,
        "eval": evaluation,
        "report": reported,
    }
    shown[step.do](result)


def steps_table(asked: StepRecipe) -> dict[str, Any]:
    """Steps as plain data."""
    rows = [{"do": step.do, "name": step.name, **step.table} for step in asked.steps]
    return {"out": str(asked.out), "keep_intermediate": asked.keep_intermediate, "steps": rows}


def steps(asked: StepRecipe) -> None:
    """`kept run --dry-run`."""
    console = printer()
    table = make_table("step", "do", "reads", "options")
    written = {step.out: step.name for step in asked.steps if step.out is not None}
    for step in asked.steps:
        reads = (written.get(path, str(path)) for path in step.models.values())
        keys = {*step.models, "out"} if step.out is not None else {*step.models}
        options = ", ".join(f"{key} {value}" for key, value in step.table.items() if key not in keys)
        named = f"{step.do} ({step.name})" if step.name != step.do else step.do
        table.add_row(str(step.number), named, ", ".join(dict.fromkeys(reads)), options)
    console.print(table)
    console.print(f"{asked.out}: would be the output of step {asked.last.number}; nothing was written")


def ran_table(asked: StepRecipe, done: RecipeRun) -> dict[str, Any]:
    """A run as plain data: the steps that were run by this command, and the record of the result."""
    from kept.checkpoint.json_file import read_json

    run = [step.number for step, result in zip(asked.steps, done.results, strict=True) if result is not None]
    return {"out": str(done.path), "run": run, "record": read_json(done.path / "kept.json")}


def ran(done: RecipeRun) -> None:
    """The end of `kept run`."""
    printer().print(f"{done.path}: finished")
