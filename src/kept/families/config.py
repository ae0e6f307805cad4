"""A checkpoint's config.json with typed access: a value of a wrong type or size is an error that names its key."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Mapping

LARGEST = (1 << 31) - 1
"""Limit on sizes, so that a damaged config cannot ask for absurd memory."""


@dataclass(frozen=True)
class Config:
    """The keys of a config.json, and a record of those that were read. A null value counts as absent."""

    keys: Mapping[str, Any]
    where: str = "config.json"
    read: set[str] = field(default_factory=set, compare=False, repr=False)
    """Keys that were looked up, present or absent."""

    def get(self, key: str, default: Any = None) -> Any:  # noqa: ANN401 - JSON
        """Return the raw value, or `default` if the key is absent."""
        self.read.add(key)
        return self.keys.get(key, default)

    def states(self, key: str) -> bool:
        """Whether the key is present, even if null."""
        self.read.add(key)
        return key in self.keys

    def size(self, key: str, default: int | None = None, largest: int = LARGEST) -> int:
        """Return a positive integer. Raises CheckpointError for anything else, as all these methods do."""
        value = self._present(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= largest:
            raise self.wrong(key, f"a positive integer of at most {largest}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """Return a finite number that is not negative."""
        value = self._present(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
            raise self.wrong(key, "a number that is not negative")
        return float(value)

    def positive(self, key: str, default: float | None = None) -> float:
        """Return a finite number above 0."""
        value = self.number(key, default)
        if value == 0:
            raise self.wrong(key, "a number above 0")
        return value

    def flag(self, key: str, default: bool | None = None) -> bool:  # noqa: FBT001 - mirrors size and number
        """Return true or false."""
        value = self._present(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return value

    def section(self, key: str) -> Config:
        """Return a nested object; an empty one if the key is absent."""
        value = self.get(key)
        if value is None:
            value = {}
        if not isinstance(value, dict):
            raise self.wrong(key, "an object")
        return Config(value, f"{self.where}: {key}")

    def wrong(self, key: str, wanted: str) -> CheckpointError:
        """Return the error for the value of a key; `wanted` completes "it must be"."""
        return self.wrong_value(key, self.get(key), wanted)

    def wrong_value(self, key: str, value: object, wanted: str) -> CheckpointError:
        """Return the error for a value that is a default, or that another key holds."""
        try:
            shown = repr(value)
        except ValueError:  # Python does not print whole numbers of thousands of digits
            shown = "a number of thousands of digits"
        return CheckpointError(f"{self.where}: {key} is {shown[:60]}, it must be {wanted}")

    def _present(self, key: str, default: Any) -> Any:  # noqa: ANN401 - JSON
        value = self.get(key)
        if value is None:
            value = default
        if value is None:
            raise CheckpointError(f"{self.where}: has no {key}")
        return value
