"""The content of an evaluation's file, which `kept eval --out` writes and `kept report` reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pydantic import model_validator

from kept.checkpoint.json_model import JsonModel
from kept.evaluation.estimate import Figure  # noqa: TC001 - pydantic evaluates the annotation
from kept.evaluation.forgetting import Forgetting


@dataclass(frozen=True)
class EvaluatedModel:
    """A model that was measured: its name, family and dtype, and a sha256 over its files."""

    name: str
    family: str
    dtype: str
    identity: str


@dataclass(frozen=True)
class EvaluationRow:
    """One metric of one measurement.

    `models` has a figure for each model, and `differences` for each after the first its difference to the first, over
    the same items. `agreements` has instead, for each after the first, a figure of both together; None if they do not
    compare. `detail`: not the metric that counts, or one of very many tasks.
    """

    part: str
    name: str
    metric: str
    items: int
    models: tuple[Figure, ...] = ()
    differences: tuple[Figure, ...] = ()
    agreements: tuple[Figure | None, ...] = ()
    detail: bool = False


class EvaluationFile(JsonModel):
    """The content of the file. `texts` has prompts with continuations, or answers, by measurement for each model."""

    models: tuple[EvaluatedModel, ...]
    settings: Mapping[str, Any]
    rows: tuple[EvaluationRow, ...]
    texts: Mapping[str, tuple[tuple[tuple[str, ...], ...], ...]]
    forgetting: Forgetting | None = None

    @model_validator(mode="after")
    def _check_counts(self) -> Self:
        """Raise ValueError for a row or a forgetting that is not of these models."""
        count = len(self.models)
        if not count:
            raise ValueError("it has no models")
        for row in self.rows:
            if (len(row.models), len(row.differences), len(row.agreements)) not in {
                (count, count - 1, 0),
                (0, 0, count - 1),
            }:
                raise ValueError(f"{row.name} {row.metric} has figures for other models")
        if any(len(written) != count for written in self.texts.values()):
            raise ValueError("texts are those of other models")
        if self.forgetting is not None:
            self.forgetting.check()
        return self
