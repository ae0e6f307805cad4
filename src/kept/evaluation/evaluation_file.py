"""An evaluation as plain data, for reports and for a file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import MOST_IN_RESULTS, finite, read_json, to_json
from kept.checkpoint.output_path import check_no_checkpoint, check_replaceable
from kept.checkpoint.small_files import refused, write_whole
from kept.errors import CheckpointError
from kept.naming import split_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kept.evaluation.run import Evaluation


def table(found: Evaluation) -> dict[str, Any]:
    """All of it, with null for NaN and infinity, which JSON does not have."""
    settings = {**asdict(found.settings), "texts": {name: str(file) for name, file in found.settings.texts.items()}}
    settings["data"] = None if found.settings.data is None else str(found.settings.data)
    rows = [asdict(row) for row in found.rows]
    models = [asdict(model) for model in found.models]
    learned = None if found.forgetting is None else asdict(found.forgetting)
    whole = {"models": models, "settings": settings, "rows": rows, "texts": dict(found.texts), "forgetting": learned}
    out: dict[str, Any] = finite(whole)
    return out


KEYS = {"models", "settings", "rows", "texts"}
"""Keys by which a JSON file is recognised as an evaluation."""


def check(file: str | Path, models: Iterable[str | Path], files: Iterable[str | Path]) -> None:
    """Raise OutputError if `file` is an input, lies in a model or data directory, or is no earlier evaluation.

    `models` are paths, each optionally as `name=path`; `files` are texts and data directories.
    """
    inputs = {f"the model {number}": Path(split_name(str(one))[1]) for number, one in enumerate(models, 1)}
    inputs |= {f"input {number}": Path(one) for number, one in enumerate(files, 1)}
    check_no_checkpoint(Path(file))
    check_replaceable(Path(file), inputs, _is_evaluation)


def _is_evaluation(file: Path) -> bool:
    """Whether a file is an earlier evaluation."""
    try:
        return read_json(file, MOST_IN_RESULTS).keys() >= KEYS
    except CheckpointError:
        return False


def write(file: str | Path, found: Evaluation) -> None:
    """Write the data as JSON, atomically. Raises OutputError, also in the cases of `check`."""
    check(file, (), [*found.settings.texts.values(), *filter(None, [found.settings.data])])
    with refused(Path(file)):
        write_whole(Path(file), to_json(table(found)))
