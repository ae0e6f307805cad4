"""Changes to a healing run that lower the memory of a rank."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from kept.distillation.cost.estimate import CostEstimate, cost

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kept.distillation.cluster import Cluster
    from kept.distillation.cost.run_shape import RunShape
    from kept.distillation.settings import HealSettings

DOUBLINGS = 15
"""Maximum number of times that the number of ranks is doubled to find one that fits."""


def remedies(shape: RunShape, cluster: Cluster) -> Iterator[tuple[str, CostEstimate]]:
    """Yield changes that lower the memory of a rank, with the cost after each one.

    First each change alone, then all settings together, then these on the smallest doubled number of ranks that fits.
    """
    changes = _changes(shape, cluster)
    for options, change in changes.items():
        yield options, cost(_with(shape, change), cluster)
    if shape.teacher is not None:
        yield "a cached teacher", cost(replace(shape, teacher=None), cluster)
    smallest = _with(shape, {key: value for change in changes.values() for key, value in change.items()})
    if len(changes) > 1:
        yield " ".join(changes), cost(smallest, cluster)
    for doublings in range(1, DOUBLINGS):
        larger = replace(cluster, ranks=cluster.ranks << doublings)
        found = cost(smallest, larger)
        if found.fits:
            yield " ".join((*changes, f"on {larger.ranks} ranks")), found
            return


def _changes(shape: RunShape, cluster: Cluster) -> dict[str, dict[str, object]]:
    """Return changes of settings that lower memory, by their command-line options."""
    settings: HealSettings = shape.settings
    changes: dict[str, dict[str, object]] = {}
    if not settings.gradient_checkpointing:
        changes["--gradient-checkpointing"] = {"gradient_checkpointing": True}
    if settings.dtype == "float32":
        changes["--dtype bfloat16"] = {"dtype": "bfloat16"}
    rows = shape.rows(cluster.ranks)
    if rows > 1:
        batch, accumulation = math.ceil(settings.batch_size / rows), settings.gradient_accumulation * rows
        changes[f"--batch-size {batch} --gradient-accumulation {accumulation}"] = {
            "batch_size": batch,
            "gradient_accumulation": accumulation,
        }
    return changes


def _with(shape: RunShape, change: Mapping[str, object]) -> RunShape:
    return replace(shape, settings=replace(shape.settings, **change))  # type: ignore[arg-type] # keys of HealSettings
