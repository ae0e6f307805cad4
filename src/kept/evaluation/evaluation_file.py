"""Read and write the JSON file of an evaluation."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import MOST_IN_RESULTS, finite, read_json, to_json
from kept.checkpoint.output_path import check_no_checkpoint, check_replaceable
from kept.checkpoint.small_files import refused, write_whole
from kept.errors import CheckpointError, InputError
from kept.evaluation.evaluation_data import EvaluationFile
from kept.naming import split_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kept.evaluation.run import Evaluation


def table(found: Evaluation) -> dict[str, Any]:
    """Return an evaluation as plain data, with None for NaN and Inf."""
    settings = {**asdict(found.settings), "texts": {name: str(file) for name, file in found.settings.texts.items()}}
    settings["data"] = None if found.settings.data is None else str(found.settings.data)
    content = {
        "models": [asdict(model) for model in found.models],
        "settings": settings,
        "rows": [asdict(row) for row in found.rows],
        "texts": dict(found.texts),
        "forgetting": None if found.forgetting is None else asdict(found.forgetting),
    }
    return EvaluationFile.model_validate_json(json.dumps(finite(content))).table()


def read(file: Path) -> EvaluationFile:
    """Return the content of a file that `kept eval --out` wrote.

    Raises InputError if it does not exist, CheckpointError naming what is wrong with it.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file; kept eval --out writes it")
    try:
        content = read_json(file, MOST_IN_RESULTS)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {WAY_OUT}") from None
    return EvaluationFile.parse(content, file, "the evaluation", WAY_OUT)


WAY_OUT = "make it again with kept eval --out"

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
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        write_whole(Path(file), to_json(table(found)))
