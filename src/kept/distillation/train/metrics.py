"""The metrics of a run: lines of JSON, scalars for TensorBoard, and a callback."""

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

LINES, TENSORBOARD = "metrics.jsonl", "tensorboard"

VERSION = "brain.Event:2"
"""Version at the start of an event file. With it, TensorBoard drops the scalars that a later file writes again."""


@dataclass
class Metrics:
    """The metrics of a run in its directory; none if `quiet`, on ranks other than the first.

    Everything is written when `note` returns, so a run that is killed has noted all steps that its checkpoints have.
    Raises OutputError if the disk refuses.
    """

    folder: Path
    watch: Callable[[Mapping[str, Any]], None] = lambda _: None
    quiet: bool = False
    _events: Path | None = field(default=None, init=False)

    @property
    def has_tensorboard(self) -> bool:
        """Whether scalars are written for TensorBoard, which is an optional package."""
        return self._events is not None

    def begin(self, step: int | None) -> None:
        """Continue after a step, or start over (None). Lines and scalars of later steps are removed."""
        if self.quiet:
            return
        with refused(self.folder, "metrics cannot be written"):
            write_whole(self.folder / LINES, "".join(_lines_until(self.folder / LINES, step)).encode())
            self._events = _begin_events(self.folder / TENSORBOARD, 0 if step is None else step + 1)

    def show(self, line: Mapping[str, Any]) -> None:
        """Pass a line on that is of interest now, and not later: it is not written."""
        if not self.quiet:
            self.watch(line)

    def note(self, line: Mapping[str, Any]) -> None:
        """Write a line with a `kind` and a `step`. Its floats, also those in nested tables, become scalars.

        Scalars are named by the keys, without `groups`, as `step/student/loss`.
        NaN and Inf become null, and no scalars.
        """
        if self.quiet:
            return
        kept = finite(dict(line))
        with refused(self.folder, "metrics cannot be written"):
            with open(self.folder / LINES, "a", encoding="utf-8", opener=no_link) as file:
                file.write(json.dumps(kept, allow_nan=False) + "\n")
            values = dict(scalars(str(line["kind"]), kept))
            if self._events is not None and values:
                summary = {"value": [{"tag": tag, "simple_value": value} for tag, value in values.items()]}
                _append_event(self._events, step=line["step"], summary=summary)
        self.watch(line)


def _lines_until(file: Path, step: int | None) -> Iterator[str]:
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


def scalars(name: str, value: object) -> Iterator[tuple[str, float]]:
    """Yield every float within a value, with the keys on the way to it joined by slashes."""
    if isinstance(value, float):
        yield name, value
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield from scalars(name if key == "groups" else f"{name}/{key}", inner)


def _begin_events(folder: Path, first_step: int) -> Path | None:
    """Return a new event file, which makes TensorBoard drop earlier scalars from `first_step` on; None without it."""
    if find_spec("tensorboard") is None:
        return None
    if folder.is_symlink():
        folder.unlink()  # write into this directory, never through a link
    folder.mkdir(exist_ok=True)
    file = folder / f"events.out.tfevents.{len([*folder.iterdir()]):06}"
    _append_event(file, file_version=VERSION)
    _append_event(file, step=first_step, session_log={"status": "START"})
    return file


def _append_event(file: Path, **event: Any) -> None:  # noqa: ANN401 - fields of an event
    """Append an event. Unlike a SummaryWriter, whose thread writes later, this raises OSError here and now."""
    from tensorboard.compat.proto.event_pb2 import Event  # noqa: PLC0415 - an optional package
    from tensorboard.summary.writer.record_writer import RecordWriter  # noqa: PLC0415 - the same

    with open(file, "ab", opener=no_link) as opened:
        RecordWriter(opened).write(Event(wall_time=time.time(), **event).SerializeToString())
