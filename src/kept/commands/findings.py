"""The faults that a check has found so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kept.errors import KeptError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Findings:
    """Findings so far. An error of a step is a finding, and the next step runs."""

    damage: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def attempt(self, step: Callable[..., Any], *arguments: Any) -> Any:  # noqa: ANN401 - whatever the step returns
        """The step's result, or None where it raised."""
        try:
            return step(*arguments)
        except KeptError as error:
            self.damage.append(str(error))
        except OSError as error:
            self.damage.append(f"{error.filename or 'a weight file'}: cannot be read ({error.strerror})")
        return None
