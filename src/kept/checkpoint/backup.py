"""Replace an output: what is in its place is moved aside, and moved back if nothing takes the place."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.small_files import refused
from kept.errors import OutputError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def replacing(target: str | Path, *, force: bool, asked: object = None) -> Iterator[Path | None]:
    """Move a directory `target` to `target.backup-N`, the first free number, if `force`. Yields that path, or None.

    `asked` are the settings of the command, whose paths are its inputs. The directory is moved back if nothing has its
    name at the end: the command failed, or had nothing to write. If the process is killed, the backup remains, and the
    same command continues its run.

    Raises OutputError if an input or the working directory is in the target, or if the target cannot be moved.
    """
    place = Path(target)
    if not force or not place.is_dir() or place.is_symlink():
        yield None
        return
    _check_inputs(place, [*_texts(asked), str(Path.cwd())])
    numbered = (place.with_name(f"{place.name}.backup-{number}") for number in count(1))
    backup = next(path for path in numbered if not os.path.lexists(path))
    with refused(place, "cannot be moved aside"):
        place.rename(backup)
    try:
        yield backup
    finally:
        if not os.path.lexists(place):
            backup.rename(place)


def _check_inputs(place: Path, inputs: list[str]) -> None:
    target = Path(os.path.realpath(place))
    for text in inputs:
        for path in {text, text.partition("=")[2]} - {""}:  # a text may have a name: english=en.txt
            found = Path(os.path.realpath(path))
            if os.path.lexists(path) and target in (found, *found.parents):
                raise OutputError(f"{place}: is or has {path}, which is read; choose another output")


def _texts(value: Any) -> Iterator[str]:  # noqa: ANN401 - settings, or any value in them
    """Yield every text in a value, whichever of them are paths."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, str | Path):
        yield str(value)
    if isinstance(value, dict):
        value = [inner for key, inner in value.items() if key != "out"]
    for inner in value if isinstance(value, list | tuple) else ():
        yield from _texts(inner)
