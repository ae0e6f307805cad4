"""Results as users see them in Python: one line at the prompt, a small table in a notebook."""

from __future__ import annotations

from abc import abstractmethod
from html import escape
from typing import TYPE_CHECKING

from kept.errors import shown

if TYPE_CHECKING:
    from collections.abc import Mapping


class Summarised:
    """A result with a few figures that say what happened; everything else is in its attributes."""

    @abstractmethod
    def summary(self) -> Mapping[str, str]:
        """Return the figures as text, by what they are."""

    def __repr__(self) -> str:
        said = ", ".join(f"{name}: {value}" for name, value in self.summary().items())
        return shown(f"{type(self).__name__}({said})")

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows."""
        rows = (
            f'<tr><th style="text-align: left">{escape(shown(name))}</th>'
            f'<td style="text-align: left">{escape(shown(value))}</td></tr>'
            for name, value in self.summary().items()
        )
        return f"<table><caption>{type(self).__name__}</caption><tbody>{''.join(rows)}</tbody></table>"
