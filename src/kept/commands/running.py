"""Running the steps of a recipe one after another; what an interrupted run finished is not done again."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, Protocol

from kept.checkpoint.disk import refused, sync_directory, write_whole
from kept.checkpoint.reader import read_json
from kept.checkpoint.staging import JOURNAL, check_place, check_target, staging
from kept.checkpoint.writer import to_json
from kept.commands.lessons import check_sizes
from kept.commands.planning import make_plan, target_family
from kept.commands.shrinking import Shrinking, expanded
from kept.commands.steps import Asked, Evaluating, Reporting, Step, Steps, Verifying, load_steps
from kept.distillation.documents import named_paths
from kept.distillation.folder import hold
from kept.distillation.settings import Settings
from kept.distillation.trainable import trainable
from kept.errors import CheckpointError, InputError, KeptError, OutputError, PromiseError
from kept.hub import local
from kept.opened import Opened, open_model
from kept.output.record import RECORD, recorded
from kept.output.writing import described, stamp
from kept.recipe import Recipe
from kept.reporting import Reporter, Silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from kept.checkpoint.staging import Staging
    from kept.commands.healing import Healed
    from kept.commands.pipeline import Conversion
    from kept.commands.shrinking import Shrunk
    from kept.evaluation.run import Evaluation
    from kept.pages.page import Report
    from kept.verification.verify import Verification

    Result = Conversion | Healed | Shrunk | Verification | Evaluation | Report
    Watch = Callable[[Mapping[str, Any]], None]

NOTES = "steps.json"
"""What a run was asked and read, step by step, in the directory in which its steps write."""


class Teller(Protocol):
    """Is told of each step when it begins, and when it has a result: None for one that an earlier run finished."""

    def begins(self, step: Step, count: int) -> None:
        """A step of `count` begins."""
        ...

    def ends(self, step: Step, result: Result | None) -> None:
        """A step is finished."""
        ...


class Quiet:
    """Tells nobody."""

    def begins(self, step: Step, count: int) -> None:
        """Nothing is said."""

    def ends(self, step: Step, result: Result | None) -> None:
        """Nothing is said."""


@dataclass(frozen=True)
class Ran:
    """A finished recipe: where the result is, and what each step found; None where an earlier run finished it."""

    path: Path
    results: tuple[Result | None, ...]


def run_steps(path: str | Path, reporter: Reporter | None = None, **overrides: Any) -> Ran:  # noqa: ANN401 - recipe keys
    """Run a recipe of steps (see `kept.commands.steps`), which ends with one directory, `out`.

    Run again, an interrupted recipe goes on where it was. Raises RecipeError for what the recipe says wrong, and what
    the steps raise; PromiseError where a step that verifies finds a promise broken, and then `out` is not there.
    """
    return run_all(load_steps(path, **overrides), reporter)


def run_all(
    asked: Steps, reporter: Reporter | None = None, teller: Teller | None = None, watch: Watch | None = None
) -> Ran:
    """Run steps. `watch` is given the metrics of those that heal."""
    reporter, teller = reporter or Silent(), teller or Quiet()
    check(asked)
    with ExitStack() as held:
        hold(asked.folder, held)
        check_target(asked.out)  # again: the run that had the lock may just have finished
        notes = Notes(asked)
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
        _publish(asked)
    return Ran(asked.out, tuple(results))


def _publish(asked: Steps) -> None:
    """Give the last model its name, and remove the others."""
    assert asked.last.out is not None, "it writes"
    with refused(asked.out):
        asked.last.out.rename(asked.out)
        sync_directory(asked.out.parent)
    if not asked.keep:
        rmtree(asked.folder)


def _run(step: Step, asked: Steps, reporter: Reporter, watch: Watch | None) -> Result:
    match step.asked:
        case Recipe():
            from kept.commands.pipeline import run

            return run(step.asked, reporter)
        case Settings():
            from kept.commands.healing import heal

            return heal(step.asked, reporter, watch)
        case Shrinking():
            return _shrunk(step.asked, reporter)
        case Verifying():
            return _verified(step, step.asked, reporter)
        case Evaluating():
            return _evaluated(step.asked, asked, reporter)
        case Reporting():
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


def _shrunk(asked: Shrinking, reporter: Reporter) -> Shrunk:
    """The steps behind it need a model: where no layer goes, it is the source's, file by file."""
    from kept.commands.shrinking import shrink

    done = shrink(asked, reporter)
    if done.conversion is not None:
        return done
    _pass_on(local(asked.source), Path(asked.out))
    return replace(done, passed_on=True)


def _pass_on(source: Path, out: Path) -> None:
    """Write a model as it is. The weights of one that an earlier step wrote are linked, which takes no space."""
    ours = source.parent.parent == out.parent.parent
    with staging(out, {"passed on": str(source)}) as stage:
        for file in sorted(file for file in source.rglob("*") if file.is_file() and file.name != JOURNAL):
            name = str(file.relative_to(source))
            if ours and file.suffix == ".safetensors" and "/" not in name:
                _link(file, stage.path / name, stage)
            else:
                stage.copy(name, file)
        stage.publish()


def _link(file: Path, target: Path, stage: Staging) -> None:
    """A second name for a file, or a copy on a disk that has no such thing."""
    try:
        target.hardlink_to(file)
    except OSError:
        stage.copy(target.name, file)


def _verified(step: Step, asked: Verifying, reporter: Reporter) -> Verification:
    from kept.commands.verifying import verify

    found = verify(
        asked.against, asked.model, text=asked.text, tokens=asked.tokens, streamed=asked.streamed, reporter=reporter
    )
    if found.failure is not None:
        broken = f"the promise ({found.promise}) is broken: {found.failure}"
        raise PromiseError(f"step {step.number} ({step.do}): {asked.model}: {broken}")
    return found


def _evaluated(asked: Evaluating, steps: Steps, reporter: Reporter) -> Evaluation:
    from kept.evaluation.output import write
    from kept.evaluation.run import evaluate

    measures = asked.measures
    paths = map(Path, [asked.model] if asked.against is None else [asked.against, asked.model])
    found = evaluate(
        *(_named(path, steps) for path in paths),
        texts=named_paths(asked.texts),
        old=named_paths(asked.old),
        new=named_paths(asked.new),
        results=steps.folder / "eval",
        reporter=reporter,
        suites=measures.suites,
        data=measures.data,
        limit=measures.limit,
        dtype=measures.dtype,
        device=measures.device,
    )
    write(asked.out, found)
    return found


def _named(path: Path, steps: Steps) -> str | Path:
    """A model with the name that it has in tables: the result's, or its step's; any other has its own."""
    if path == steps.last.out:
        return f"{steps.out.name}={path}"
    return f"{path.parent.name}={path}" if path.parent.parent == steps.folder else path


# ---------------------------------------------------------------------------------------------------- before the first


def check(asked: Steps) -> None:
    """Find what is wrong before the first step: missing files, a target that is taken, plans that there are not.

    Nothing is written. What a step writes is foreseen as far as headers tell it. Raises RecipeError naming the step.
    """
    check_target(asked.out)
    made = {step.out for step in asked.steps if step.out is not None}
    written = {file for step in asked.steps for file in step.made}
    foreseen: dict[Path, Opened] = {}
    for step in asked.steps:
        try:
            for key, path in step.models.items():
                if path not in made and path not in foreseen:
                    foreseen[path] = _opened(key, path, asked.out)
            for key, path in step.files.items():
                if path not in written and not path.exists():
                    raise InputError(f"{key}: {path} is not there")
            for file in step.made:
                _check_file(file, (asked.out, *step.models.values()))
            if step.model not in made:
                _check_new(step.asked, foreseen[step.model])
            if step.out is not None:
                foreseen[step.out] = _foreseen(step, foreseen)
        except KeptError as error:
            raise type(error)(f"step {step.number} ({step.do}): {error}") from None


def _opened(key: str, path: Path, out: Path) -> Opened:
    try:
        opened = open_model(path)
    except CheckpointError as error:
        raise CheckpointError(f"{key}: {error}") from None
    check_place(opened.path, out, f"{key}'s model")
    return opened


def _check_file(file: Path, models: Iterable[Path]) -> None:
    """Raise OutputError where a file has no directory, is one, or lies where a model is."""
    for model in models:
        check_place(model, file, f"the model {model}")
    if file.is_dir() or not file.parent.is_dir():
        why = "is a directory" if file.is_dir() else f"there is no directory {file.parent}"
        raise OutputError(f"out: {file}: {why}; name another file")


def _check_new(asked: Asked, model: Opened) -> None:
    """Raise InputError where a model that is there lacks the layers that are to be dropped, or the weights to learn."""
    if isinstance(asked, Shrinking):
        expanded(model)
    if isinstance(asked, Settings):
        trainable(model.program, asked.train, recorded(model), asked.lora_rank, asked.lora_alpha)


def _foreseen(step: Step, models: Mapping[Path, Opened]) -> Opened:
    """What a step will have written, as far as that is known: the layers that shrinking drops are not."""
    source = models[step.model]
    if isinstance(step.asked, Settings):
        teacher = None if step.asked.teacher is None else models[Path(step.asked.teacher)]
        check_sizes(source, teacher, step.asked.length)
    if not isinstance(step.asked, Recipe):
        return source
    plan = make_plan(source, step.asked, unmeasured=True)
    return replace(source, program=plan.program, family=target_family(source, step.asked))


# ---------------------------------------------------------------------------------------------------- what was done


class Notes:
    """Which steps are finished, of what they were asked and of what files: a note for each, in order.

    The first step that differs from its note, and all behind it, are done again. Reading a step's files happens when
    its turn comes, so that what an earlier step wrote anew is another file.
    """

    def __init__(self, asked: Steps) -> None:
        self.folder = asked.folder
        self.steps = asked.steps
        file = self.folder / NOTES
        try:
            found = read_json(file).get("steps") if file.is_file() else []
        except CheckpointError:
            found = []  # then nobody knows what made the directories beside it
        self.notes: list[Any] = found if isinstance(found, list) else []

    def finished(self, step: Step) -> bool:
        """Whether a step is done and all that it read is as it was. Forgets it, and those behind it, where not."""
        note = self._note(step)
        if note is None or not _same(note, _asks(step)):
            self._forget(step)
            return False
        if step.out is None:
            return note.get("done") is True and all(file.is_file() for file in step.made)
        if not step.out.is_dir():
            return False
        (step.out / JOURNAL).unlink(missing_ok=True)  # an output has its name when it is finished
        return True

    def begin(self, step: Step) -> None:
        """Note a step that begins, unless an interrupted run has; what is behind it is no news any more."""
        del self.notes[step.number :]
        if self._note(step) is None:
            self.notes.append({**_asks(step), "done": False})
        self._write()

    def end(self) -> None:
        """Note that the last step is done."""
        self.notes[-1]["done"] = True
        self._write()

    def _note(self, step: Step) -> dict[str, Any] | None:
        note = self.notes[step.number - 1] if step.number <= len(self.notes) else None
        return note if isinstance(note, dict) else None

    def _forget(self, step: Step) -> None:
        """Remove what this step and those behind it wrote."""
        del self.notes[step.number - 1 :]
        self._write()
        kept = {one.out.parent for one in self.steps[: step.number - 1] if one.out is not None}
        for entry in self.folder.iterdir():
            if entry.is_dir() and entry not in kept and entry.name[:1].isdigit():
                rmtree(entry)

    def _write(self) -> None:
        with refused(self.folder):
            write_whole(self.folder / NOTES, to_json({"steps": self.notes}))


def _same(note: Mapping[str, Any], asks: Mapping[str, Any]) -> bool:
    return all(note.get(key) == value for key, value in asks.items())


def _asks(step: Step) -> dict[str, Any]:
    """What makes two runs of a step the same: the words of its recipe, and each file that it reads."""
    reads = {str(path): _model_files(path) for path in step.models.values()}
    reads |= {str(path): _files(path) for path in step.files.values()}
    asks = {"kept": version("kept"), "do": step.do, "asked": step.table, "reads": reads}
    plain: dict[str, Any] = json.loads(json.dumps(asks, default=str))
    return plain


def _model_files(path: Path) -> dict[str, Sequence[int]]:
    opened = open_model(local(path))
    record = opened.path / RECORD
    return {file.name: stamp(file) for file in (*described(opened), record) if file.is_file()}


def _files(path: Path) -> dict[str, Sequence[int]]:
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path.parent)): stamp(file) for file in found}
