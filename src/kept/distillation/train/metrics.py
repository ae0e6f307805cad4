"""What a run measures, as it goes on: a line of JSON each, points for TensorBoard, and a call to whoever watches."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import finite
from kept.checkpoint.small_files import no_link, refused, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

LINES, BOARD = "metrics.jsonl", "tensorboard"

VERSION = "brain.Event:2"
"""What a file of points begins with, so that TensorBoard forgets what the file after it takes back."""


@dataclass
class Metrics:
    """The metrics of a run under its directory. Of several ranks only the first has any (`quiet`: this is another).

    Everything is in its file when `note` returns: a run that is killed has noted what its checkpoints know. Raises
    OutputError where the disk refuses.
    """

    folder: Path
    watch: Callable[[Mapping[str, Any]], None] = lambda _: None
    quiet: bool = False
    _points: Path | None = field(default=None, init=False)

    @property
    def has_board(self) -> bool:
        """Whether there are files for TensorBoard, which is an optional package."""
        return self._points is not None

    def begin(self, step: int | None) -> None:
        """Go on after a step, None: begin. What a run that was killed noted later will be noted again."""
        if self.quiet:
            return
        with refused(self.folder, "metrics cannot be written"):
            write_whole(self.folder / LINES, "".join(_until(self.folder / LINES, step)).encode())
            self._points = _begin_points(self.folder / BOARD, 0 if step is None else step + 1)

    def note(self, line: Mapping[str, Any]) -> None:
        """Note a line of a kind and a step; its fractions, in tables too, are points.

        What is no number is null, and no point.
        """
        if self.quiet:
            return
        kept = finite(dict(line))
        with refused(self.folder, "metrics cannot be written"):
            with open(self.folder / LINES, "a", encoding="utf-8", opener=no_link) as file:
                file.write(json.dumps(kept, allow_nan=False) + "\n")
            values = dict(_fractions(str(line["kind"]), kept))
            if self._points is not None and values:
                summary = {"value": [{"tag": tag, "simple_value": value} for tag, value in values.items()]}
                _add(self._points, step=line["step"], summary=summary)
        self.watch(line)


def _until(file: Path, step: int | None) -> Iterator[str]:
    """Yield the lines up to a step, without the "end" line of a run that is resumed; a torn line is skipped."""
    if step is None or not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            noted = json.loads(line)
            if noted["step"] <= step and noted["kind"] != "end":
                yield line
        except (ValueError, KeyError, TypeError):
            continue


def _fractions(name: str, value: object) -> Iterator[tuple[str, float]]:
    """Every fraction in a value, by the names on the way to it."""
    if isinstance(value, float):
        yield name, value
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from _fractions(f"{name}/{key}", inner)


def _begin_points(folder: Path, begin: int) -> Path | None:
    """A new file of points, after which TensorBoard forgets those of earlier files from step `begin` on."""
    if find_spec("tensorboard") is None:
        return None
    if folder.is_symlink():
        folder.unlink()  # write into this directory, never through a link
    folder.mkdir(exist_ok=True)
    file = folder / f"events.out.tfevents.{len([*folder.iterdir()]):06}"
    _add(file, file_version=VERSION)
    _add(file, step=begin, session_log={"status": "START"})
    return file


def _add(file: Path, **event: Any) -> None:  # noqa: ANN401 - fields of an event
    from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415 - an optional package
    from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415 - the same

    with open(file, "ab", opener=no_link) as opened:
        RecordWriter(opened).write(Event(wall_time=time.time(), **event).SerializeToString())
