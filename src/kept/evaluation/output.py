"""An evaluation as plain data, for reports and for a file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.disk import refused, write_whole
from kept.checkpoint.writer import finite, to_json

if TYPE_CHECKING:
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


def write(file: str | Path, found: Evaluation) -> None:
    """Write the data as JSON, whole or not at all. Raises OutputError."""
    with refused(Path(file)):
        write_whole(Path(file), to_json(table(found)))
