"""The held-out errors of the branches of a layerwise run: before, and at the last measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.table import Table

COLUMNS = 3
"""Branches side by side: 30 layers take 10 lines."""


class BranchErrors:
    """The errors of each parameter group, from the lines of metrics."""

    def __init__(self) -> None:
        self.before: dict[str, float] = {}
        self.now: dict[str, float] = {}
        self.stopped: set[str] = set()

    def measured(self, groups: Mapping[str, Mapping[str, Any]]) -> None:
        """Take the held-out losses of a measurement. A group that has ended keeps its last."""
        for name, found in groups.items():
            self.before.setdefault(name, found["loss"])
            self.now[name] = found["loss"]

    def words(self) -> list[str]:
        """Return for each branch its name and its error before and now."""
        return [
            f"{name} {before:.3g} -> {self.now[name]:.3g}{' stopped' * (name in self.stopped)}"
            for name, before in self.before.items()
        ]

    def table(self) -> Table:
        """Return the branches as a table, in columns from top to bottom."""
        from rich.table import Table

        words = self.words()
        height = -(-len(words) // COLUMNS)
        grid = Table.grid(padding=(0, 3))
        for row in range(height):
            grid.add_row(*words[row::height])
        return grid


def refitted(line: Mapping[str, Any]) -> str:
    """Return a line on the least-squares refit: for how many branches it was kept."""
    return f"least-squares refit: kept for {len(line['kept'])} of {line['moved']} branches, whose held-out error fell"
