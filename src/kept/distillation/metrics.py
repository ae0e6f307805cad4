"""What a run measures, as it goes on: a line of JSON each, points for TensorBoard, and a call to whoever watches."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kept.distillation.cache import write_file
from kept.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch.utils.tensorboard import SummaryWriter

LINES, BOARD = "metrics.jsonl", "tensorboard"


@dataclass
class Metrics:
    """The metrics of a run under its directory. Of several ranks only the first has any (`quiet`: this is another).

    Raises OutputError where the disk refuses.
    """

    folder: Path
    watch: Callable[[Mapping[str, Any]], None] = lambda _: None
    quiet: bool = False
    _board: SummaryWriter | None = field(default=None, init=False)

    @property
    def has_board(self) -> bool:
        """Whether there are files for TensorBoard, which is an optional package."""
        return self._board is not None

    def begin(self, step: int | None) -> None:
        """Go on after a step, None: begin. What a run that was killed noted later will be noted again."""
        if self.quiet:
            return
        with self._errors():
            write_file(self.folder / LINES, "".join(_until(self.folder / LINES, step)).encode())
            self._board = _board(self.folder / BOARD, 0 if step is None else step + 1)

    def note(self, line: Mapping[str, Any]) -> None:
        """Note a line of a kind and a step."""
        if self.quiet:
            return
        with self._errors():
            with (self.folder / LINES).open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            if self._board is not None:
                for name in (name for name, value in line.items() if isinstance(value, float)):
                    self._board.add_scalar(f"{line['kind']}/{name}", line[name], line["step"])
        self.watch(line)

    def flush(self) -> None:
        """Have all points in the file: what is in a checkpoint is not noted again."""
        if self._board is not None:
            with self._errors():
                self._board.flush()

    def close(self) -> None:
        """End the file of points."""
        if self._board is not None:
            with self._errors():
                self._board.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self.folder}: metrics cannot be written ({error.strerror or error}); free space or permissions?"
            ) from error


def _until(file: Path, step: int | None) -> Iterator[str]:
    """The lines up to a step; the last one may be torn."""
    if step is None or not file.is_file():
        return
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            if json.loads(line)["step"] <= step:
                yield line
        except (ValueError, KeyError, TypeError):
            continue


def _board(folder: Path, begin: int) -> SummaryWriter | None:
    """A writer of points; TensorBoard forgets those of earlier files from step `begin` on."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - a second, and an optional package
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=begin)
