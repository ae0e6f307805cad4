"""What the steps of a recipe were asked and read, as they were finished: none is done again without need."""

from __future__ import annotations

import json
from importlib.metadata import version
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import read_json, to_json
from kept.checkpoint.small_files import refused, sync_directory, write_whole
from kept.checkpoint.staging import JOURNAL
from kept.errors import CheckpointError
from kept.hub import local
from kept.loaded import open_model
from kept.output.input_files import input_files, size_and_mtime
from kept.output.record import RECORD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kept.commands.recipe_steps import RecipeStep, StepRecipe

NOTES = "steps.json"
"""What a run was asked and read, step by step, in the directory in which its steps write."""

ENDED = ".kept-run.json"
"""File of notes in the published result. It exists until the run's directory has been removed."""


class RunJournal:
    """Which steps are finished, of what they were asked and of what files: a note for each, in order.

    The first step that differs from its note, and all behind it, are done again. Reading a step's files happens when
    its turn comes, so that what an earlier step wrote anew is another file.
    """

    def __init__(self, asked: StepRecipe) -> None:
        self.asked, self.folder = asked, asked.folder
        self.steps = asked.steps
        self.file = self.folder / NOTES
        found = _read(self.file)
        self.damaged = found is None and self.file.exists()  # the origin of the step directories is then unknown
        self.notes: list[Any] = found or []

    def finished(self, step: RecipeStep) -> bool:
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

    def begin(self, step: RecipeStep) -> None:
        """Note a step that begins, unless an interrupted run has; what is behind it is no news any more."""
        del self.notes[step.number :]
        if self._note(step) is None:
            self.notes.append({**_asks(step), "done": False})
        self._write()

    def end(self) -> None:
        """Note that the last step is done."""
        self.notes[-1]["done"] = True
        self._write()

    def publish(self) -> None:
        """Write the notes into the last model and rename it to the result's name."""
        last, out = self.asked.last.out, self.asked.out
        assert last is not None, "it writes"
        with refused(out):
            write_whole(last / ENDED, to_json({"steps": self.notes}))
            sync_directory(last)
            last.rename(out)
            sync_directory(out.parent)

    def _note(self, step: RecipeStep) -> dict[str, Any] | None:
        note = self.notes[step.number - 1] if step.number <= len(self.notes) else None
        return note if isinstance(note, dict) else None

    def _forget(self, step: RecipeStep) -> None:
        """Remove what this step and those behind it wrote."""
        del self.notes[step.number - 1 :]
        self._write()
        kept = {one.out.parent for one in self.steps[: step.number - 1] if one.out is not None}
        for entry in self.folder.iterdir():
            if entry.is_dir() and entry not in kept and entry.name[:1].isdigit():
                rmtree(entry)

    def _write(self) -> None:
        with refused(self.folder):
            write_whole(self.file, to_json({"steps": self.notes}))


def _read(file: Path) -> list[Any] | None:
    """Return the notes in a file; None if there are none or they cannot be read."""
    try:
        found = read_json(file).get("steps")
    except CheckpointError:
        return None
    return found if isinstance(found, list) else None


def is_ended(asked: StepRecipe) -> bool:
    """Return whether a run of the same recipe was killed after it published its result and before it cleaned up."""
    notes = _read(asked.out / ENDED) or []
    words = [{key: note.get(key) for key in ("do", "asked")} for note in notes if isinstance(note, dict)]
    return bool(words) and words == [_plain({"do": step.do, "asked": step.table}) for step in asked.steps]


def _same(note: Mapping[str, Any], asks: Mapping[str, Any]) -> bool:
    return all(note.get(key) == value for key, value in asks.items())


def _asks(step: RecipeStep) -> dict[str, Any]:
    """What makes two runs of a step the same: the words of its recipe, and each file that it reads."""
    reads = {str(path): _model_files(path) for path in step.models.values()}
    reads |= {str(path): _files(path) for path in step.files.values()}
    return _plain({"kept": version("kept"), "do": step.do, "asked": step.table, "reads": reads})


def _plain(asks: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy in its JSON form."""
    plain: dict[str, Any] = json.loads(json.dumps(asks, default=str))
    return plain


def _model_files(path: Path) -> dict[str, Sequence[int]]:
    opened = open_model(local(path), tie=False)  # the files do not depend on the head that is used
    record = opened.path / RECORD
    return {file.name: size_and_mtime(file) for file in (*input_files(opened), record) if file.is_file()}


def _files(path: Path) -> dict[str, Sequence[int]]:
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path.parent)): size_and_mtime(file) for file in found}
