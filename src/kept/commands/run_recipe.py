"""Running the steps of a recipe one after another; what an interrupted run finished is not done again."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, Protocol

from kept.checkpoint.backup import replacing
from kept.checkpoint.staging import JOURNAL, check_target, staging
from kept.commands.preflight import check
from kept.commands.recipe_steps import RecipeStep, StepRecipe, load_steps
from kept.commands.run_journal import ENDED, RunJournal, is_ended
from kept.commands.shrink import ShrinkSettings
from kept.commands.step_settings import EvalStepSettings, ReportSettings, VerifySettings
from kept.distillation.data.documents import named_paths
from kept.distillation.settings import HealSettings
from kept.distillation.train.run_directory import lock_run_directory
from kept.errors import CheckpointError, PromiseError
from kept.hub import local
from kept.output.input_files import CHANGED, size_and_mtime
from kept.recipe import Recipe
from kept.reporting import Progress, Reporter, Silent, reporter_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from kept.checkpoint.staging import Staging
    from kept.commands.convert import Conversion
    from kept.commands.heal_run import HealResult
    from kept.commands.shrink import ShrinkResult
    from kept.evaluation.run import Evaluation
    from kept.pages.page import Report
    from kept.verification.verify import Verification

    Result = Conversion | HealResult | ShrinkResult | Verification | Evaluation | Report
    Watch = Callable[[Mapping[str, Any]], None]


class RecipeProgress(Protocol):
    """Receives each step when it begins and when it has a result (None if an earlier run finished it)."""

    def begins(self, step: RecipeStep, count: int) -> None:
        """A step of `count` begins."""
        ...

    def ends(self, step: RecipeStep, result: Result | None) -> None:
        """A step is finished."""
        ...

    def notes(self, message: str) -> None:
        """Pass on a message that is not an error."""
        ...


class SilentRecipeProgress:
    """Tells nobody."""

    def begins(self, step: RecipeStep, count: int) -> None:
        """Nothing is said."""

    def ends(self, step: RecipeStep, result: Result | None) -> None:
        """Nothing is said."""

    def notes(self, message: str) -> None:
        """Do nothing."""


@dataclass(frozen=True)
class RecipeRun:
    """A finished recipe: where the result is, and what each step found; None where an earlier run finished it."""

    path: Path
    results: tuple[Result | None, ...]


def run_steps(
    path: str | Path,
    *,
    out: str | Path | None = None,
    keep_intermediate: bool | None = None,
    progress: Progress = False,
    force: bool = False,
) -> RecipeRun:
    """Run a recipe of several steps, which ends with one directory, `out`.

    The same call continues after an interruption.

    Args:
        path: a TOML file with `[[steps]]`.
        out: the directory to write, instead of the one in the file.
        keep_intermediate: keep the models of all steps, whatever the file says.
        progress: True shows bars on stderr; or a `kept.Reporter`.
        force: replace the output if it exists; the old one is renamed to `OUT.backup-1`, or the next free number.

    Returns:
        The output path and the result of each step.

    Raises:
        RecipeError: the recipe is wrong; names the key.
        PromiseError: a `verify` step found a broken promise; then `out` is not written.
        KeptError: what the steps raise.

    Example:
        ```python
        kept.run_steps("recipes/expand-and-teach.toml")
        ```
    """
    asked = load_steps(path, out=out, keep_intermediate=keep_intermediate)
    with replacing(asked.out, force=force, asked=asked):
        return run_all(asked, reporter_of(progress))


def run_all(
    asked: StepRecipe,
    reporter: Reporter | None = None,
    teller: RecipeProgress | None = None,
    watch: Watch | None = None,
) -> RecipeRun:
    """Run steps. `watch` is given the metrics of those that heal."""
    reporter, teller = reporter or Silent(), teller or SilentRecipeProgress()
    if is_ended(asked):
        with ExitStack() as held:
            lock_run_directory(asked.folder, held)
            _clean(asked)
        teller.notes("all steps were finished before; the directory of the run is removed")
        return RecipeRun(asked.out, (None,) * len(asked.steps))
    check(asked)
    with ExitStack() as held:
        lock_run_directory(asked.folder, held)
        check_target(asked.out)  # again: the run that had the lock may just have finished
        notes = RunJournal(asked)
        if notes.damaged:
            teller.notes(f"{notes.file}: is damaged; the first step begins anew")
        results = []
        for step in asked.steps:
            teller.begins(step, len(asked.steps))
            result = None
            if not notes.finished(step):
                notes.begin(step)
                result = _run(step, asked, reporter, watch)
                notes.end()
            teller.ends(step, result)
            results.append(result)
        notes.publish()
        _clean(asked)
    return RecipeRun(asked.out, tuple(results))


def _clean(asked: StepRecipe) -> None:
    """Remove the working files of a published run; the notes in the result go last."""
    if not asked.keep_intermediate:
        rmtree(asked.folder)
    (asked.out / ENDED).unlink()


def _run(step: RecipeStep, asked: StepRecipe, reporter: Reporter, watch: Watch | None) -> Result:
    match step.asked:
        case Recipe():
            from kept.commands.convert import run

            return run(step.asked, progress=reporter)
        case HealSettings():
            from kept.commands.heal import run_heal

            return run_heal(step.asked, reporter, watch)
        case ShrinkSettings():
            return _shrunk(step.asked, reporter)
        case VerifySettings():
            return _verified(step, step.asked, reporter)
        case EvalStepSettings():
            return _evaluated(step.asked, asked, reporter)
        case ReportSettings():
            from kept.pages.page import report

            one = step.asked
            place = asked.place(Path(one.model))
            return report(
                one.model,
                one.file,
                evaluations=one.evaluations,
                metrics=one.metrics,
                place=place,
                stays=place is not None,
            )


def _shrunk(asked: ShrinkSettings, reporter: Reporter) -> ShrinkResult:
    """The steps behind it need a model: where no layer goes, it is the source's, file by file."""
    from kept.commands.shrink import shrink

    done = shrink(asked, reporter)
    if done.conversion is not None:
        return done
    _pass_on(local(asked.source), Path(asked.out))
    return replace(done, passed_on=True)


def _pass_on(source: Path, out: Path) -> None:
    """Write a model as it is. The weights of one that an earlier step wrote are linked, which takes no space."""
    ours = source.parent.parent == out.parent.parent
    versions: dict[Path, tuple[int, int]] = {}
    with staging(out, {"passed on": str(source)}) as stage:
        for file in sorted(file for file in source.rglob("*") if file.is_file() and file.name != JOURNAL):
            name, before = str(file.relative_to(source)), size_and_mtime(file)
            if ours and file.suffix == ".safetensors" and "/" not in name:
                _link(file, stage.path / name, stage)
            else:
                stage.copy(name, file)
            versions[file] = before
        if changed := next((file for file, before in versions.items() if size_and_mtime(file) != before), None):
            raise CheckpointError(f"{changed}: {CHANGED}")
        stage.publish()


def _link(file: Path, target: Path, stage: Staging) -> None:
    """A second name for a file, or a copy on a disk that has no such thing."""
    try:
        target.hardlink_to(file)
    except OSError:
        stage.copy(target.name, file)


def _verified(step: RecipeStep, asked: VerifySettings, reporter: Reporter) -> Verification:
    from kept.commands.verify import verify

    found = verify(
        asked.against, asked.model, text=asked.text, tokens=asked.tokens, streamed=asked.streamed, progress=reporter
    )
    if found.failure is not None:
        broken = f"the promise ({found.promise}) is broken: {found.failure}"
        raise PromiseError(f"step {step.number} ({step.do}): {asked.model}: {broken}")
    return found


def _evaluated(asked: EvalStepSettings, steps: StepRecipe, reporter: Reporter) -> Evaluation:
    from kept.evaluation.evaluation_file import write
    from kept.evaluation.run import evaluate

    measures = asked.measures
    paths = map(Path, [asked.model] if asked.against is None else [asked.against, asked.model])
    found = evaluate(
        *(_named(path, steps) for path in paths),
        texts=named_paths(asked.texts, "texts"),
        old=named_paths(asked.old, "old"),
        new=named_paths(asked.new, "new"),
        results=steps.folder / "eval",
        progress=reporter,
        tasks=measures.tasks,
        data=measures.data,
        limit=measures.limit,
        dtype=measures.dtype,
        device=measures.device,
    )
    write(asked.out, found)
    return found


def _named(path: Path, steps: StepRecipe) -> str | Path:
    """A model with the name that it has in tables: the result's, or its step's; any other has its own."""
    if path == steps.last.out:
        return f"{steps.out.name}={path}"
    return f"{path.parent.name}={path}" if path.parent.parent == steps.folder else path
