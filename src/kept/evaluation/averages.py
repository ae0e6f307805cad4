"""Averages over the tasks of a group, by the rule of its config, and over the measurements of a part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.evaluation.estimate import Estimate, average
from kept.evaluation.evaluation_data import EvaluationRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kept.evaluation.catalog import TaskGroup
    from kept.evaluation.measurements import MeasurementPlan

    Average = tuple[EvaluationRow, list[Estimate]]

PREFERRED = ("acc_norm", "acc", "exact_match,strict-match", "exact_match")
"""Metrics of a task that count in an average of different tasks, the first that it has; else its first."""


@dataclass(frozen=True)
class Measured:
    """A measurement, and for each model its estimate of each metric."""

    plan: MeasurementPlan
    tables: Sequence[Mapping[str, Estimate]]

    @property
    def headline(self) -> list[Estimate]:
        """The estimates of the metric that counts, for each model."""
        known = self.tables[0]
        name = self.plan.headline or next((one for one in PREFERRED if one in known), next(iter(known)))
        return [table[name] for table in self.tables]


def averages(held: Sequence[Measured]) -> Iterator[Average]:
    """Yield a row for each metric that a group averages, for each group without such metrics, and for a part.

    A group without metrics of its own is averaged over its direct members.
    """
    if len(held) < 2:
        return
    for group in dict.fromkeys(group for one in held for group in one.plan.groups):
        members = [one for one in held if group in one.plan.groups]
        if group.averages:
            yield from _of_group(group, members)
        elif len(members) > 1:
            yield _mean(held[0].plan.part, group.name, _direct(group, members))
    if all(one.plan.headline for one in held):
        yield _mean(held[0].plan.part, "average", [one.headline for one in held])


def _of_group(group: TaskGroup, members: Sequence[Measured]) -> Iterator[Average]:
    for metric, by_size in group.averages:
        columns = [[table[metric] for table in one.tables] for one in members if metric in one.tables[0]]
        if columns:
            weights = [len(column[0].influences) if by_size else 1 for column in columns]
            joined = [average(column, weights) for column in zip(*columns, strict=True)]
            part = members[0].plan.part
            nested = members[0].plan.groups[0] != group
            yield EvaluationRow(part, group.name, metric, len(joined[0].influences), detail=nested), joined


def _direct(group: TaskGroup, members: Sequence[Measured]) -> list[list[Estimate]]:
    """Return the estimates of a group's direct members; a member that is a group is its own first average."""
    by_member: dict[str, list[Measured]] = {}
    inner: dict[str, TaskGroup] = {}
    for one in members:
        below = one.plan.groups[one.plan.groups.index(group) + 1 :]
        name = below[0].name if below else one.plan.name
        by_member.setdefault(name, []).append(one)
        if below:
            inner[name] = below[0]
    out = []
    for name, some in by_member.items():
        joined = next((found for _, found in _of_group(inner[name], some)), None) if name in inner else None
        out.append(joined or [average(column) for column in zip(*(one.headline for one in some), strict=True)])
    return out


def _mean(part: str, name: str, columns: Sequence[list[Estimate]]) -> Average:
    joined = [average(column) for column in zip(*columns, strict=True)]
    return EvaluationRow(part, name, "mean of the tasks", len(joined[0].influences)), joined
