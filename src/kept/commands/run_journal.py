"""The journal of a run of steps: what each step was asked and read. A finished step is not done again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from shutil import rmtree
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import read_json, to_json
from kept.checkpoint.json_model import JsonModel
from kept.checkpoint.small_files import refused, sync_directory, write_whole
from kept.checkpoint.staging import JOURNAL
from kept.errors import CheckpointError
from kept.hub import local
from kept.loaded import open_model
from kept.output.input_files import input_files, size_and_mtime
from kept.output.record import RECORD

if TYPE_CHECKING:
    from pathlib import Path

    from kept.commands.recipe_steps import RecipeStep, StepRecipe

NOTES = "steps.json"
"""File of the journal: settings and inputs of each finished step, in the working directory of the run."""

ENDED = ".kept-run.json"
"""File of notes in the published result. It exists until the run's directory has been removed."""


class StepNote(JsonModel):
    """A step that was begun: the version of kept, the step's keys, and size and mtime of each file that it read."""

    kept: str
    do: str
    asked: Mapping[str, Any]
    reads: Mapping[str, Mapping[str, tuple[int, int]]]
    done: bool = False

    def same(self, other: StepNote) -> bool:
        """Return whether both notes are of the same step on the same files."""
        return self.model_copy(update={"done": other.done}) == other.model_copy(update={"done": other.done})


class JournalFile(JsonModel):
    """The content of a journal's file: a note for each step that was begun, in order."""

    steps: tuple[StepNote, ...]


class RunJournal:
    """The steps that are finished, with a note for each, in order.

    The first step that differs from its note, and all behind it, are done again. A step's files are looked at when its
    turn comes, so that a file that an earlier step wrote anew counts as another file.
    """

    def __init__(self, asked: StepRecipe) -> None:
        self.asked, self.folder = asked, asked.folder
        self.steps = asked.steps
        self.file = self.folder / NOTES
        found = _read(self.file)
        self.damaged = found is None and self.file.exists()  # the origin of the step directories is then unknown
        self.notes: list[StepNote] = [*(found or ())]

    def finished(self, step: RecipeStep) -> bool:
        """Whether a step is done and all that it read is as it was. Forgets it, and those behind it, where not."""
        note = self._note(step)
        if note is None or not note.same(_note_of(step)):
            self._forget(step)
            return False
        if step.out is None:
            return note.done and all(file.is_file() for file in step.made)
        if not step.out.is_dir():
            return False
        (step.out / JOURNAL).unlink(missing_ok=True)  # an output has its name when it is finished
        return True

    def begin(self, step: RecipeStep) -> None:
        """Note a step that begins, unless an interrupted run has; what is behind it is no news any more."""
        del self.notes[step.number :]
        if self._note(step) is None:
            self.notes.append(_note_of(step))
        self._write()

    def end(self) -> None:
        """Note that the last step is done."""
        self.notes[-1] = self.notes[-1].model_copy(update={"done": True})
        self._write()

    def publish(self) -> None:
        """Write the notes into the last model and rename it to the result's name."""
        last, out = self.asked.last.out, self.asked.out
        assert last is not None, "it writes"
        with refused(out):
            write_whole(last / ENDED, self._content())
            sync_directory(last)
            last.rename(out)
            sync_directory(out.parent)

    def _note(self, step: RecipeStep) -> StepNote | None:
        return self.notes[step.number - 1] if step.number <= len(self.notes) else None

    def _content(self) -> bytes:
        return to_json(JournalFile(steps=tuple(self.notes)).table())

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
            write_whole(self.file, self._content())


def _read(file: Path) -> tuple[StepNote, ...] | None:
    """Return the notes in a file; None if there are none or they cannot be read."""
    try:
        return JournalFile.parse(read_json(file), file, "the journal", "remove it").steps
    except CheckpointError:
        return None


def is_ended(asked: StepRecipe) -> bool:
    """Return whether a run of the same recipe was killed after it published its result and before it cleaned up."""
    notes = _read(asked.out / ENDED) or ()
    before = [(note.do, note.asked) for note in notes]
    return bool(before) and before == [(step.do, _plain(step.table)) for step in asked.steps]


def _note_of(step: RecipeStep) -> StepNote:
    """Return the note of a step that begins. Equal notes are of equal steps on unchanged files."""
    reads = {str(path): _model_files(path) for path in step.models.values()}
    reads |= {str(path): _files(path) for path in step.files.values()}
    return StepNote(kept=version("kept"), do=step.do, asked=_plain(step.table), reads=reads, done=False)


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy in its JSON form."""
    plain: dict[str, Any] = json.loads(json.dumps(table, default=str))
    return plain


def _model_files(path: Path) -> dict[str, tuple[int, int]]:
    opened = open_model(local(path), tie=False)  # the files do not depend on the head that is used
    record = opened.path / RECORD
    return {file.name: size_and_mtime(file) for file in (*input_files(opened), record) if file.is_file()}


def _files(path: Path) -> dict[str, tuple[int, int]]:
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path.parent)): size_and_mtime(file) for file in found}
