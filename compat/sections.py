"""Sections of a page that the programs of this directory write, each between two comments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Section:
    """The section that `compat/NAME.py` writes."""

    name: str

    def write(self, page: Path, table: str) -> None:
        """Replace the content of the section."""
        begin, end = f"<!-- {self.name}: made by compat/{self.name}.py -->", f"<!-- /{self.name} -->"
        before, _, rest = page.read_text(encoding="utf-8").partition(begin)
        _, _, behind = rest.partition(end)
        page.write_text(f"{before}{begin}\n\n{table}\n\n{end}{behind}", encoding="utf-8")
