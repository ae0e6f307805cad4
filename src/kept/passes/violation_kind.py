"""Kinds of violations, which the planner's tables of rules and of reasons are written in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kept.ir.facts import Violation


class _Unrestricted(Enum):
    ANY = auto()


ANY: Final = _Unrestricted.ANY
"""Stands for every value of a fact."""


@dataclass(frozen=True)
class ViolationKind:
    """Violations whose path matches the glob `pattern`, with `found` in the spec and `needs` in the target."""

    pattern: str
    found: object = ANY
    needs: object = ANY

    def fits(self, violation: Violation) -> bool:
        """Return whether a violation is of this kind."""
        here = fnmatch(violation.path, self.pattern)
        return here and _admits(self.found, violation.found) and _admits(self.needs, violation.needs)


def _admits(wanted: object, value: object) -> bool:
    return wanted is ANY or wanted == value


KEY_VALUE_HEADS = "layers.*.mixer.attention.kv_heads"
"""A fact that has both rules and a reason."""
