"""Items of facts that no key states, and of keys that may have one value only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.families.config import Config
    from kept.ir.facts import Facts


@dataclass(frozen=True)
class Always:
    """Facts that hold for every model of the family and that no config states."""

    values: tuple[tuple[str, Any], ...]

    def read(self, config: Config, facts: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Return the facts."""
        return dict(self.values)

    def write(self, facts: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """Return no keys."""
        return {}


@dataclass(frozen=True)
class DerivedFact:
    """A fact that the family computes from others. A config may state it under the fact's name, but not otherwise."""

    path: str
    value: Callable[[Facts], Any]

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the computed fact.

        Classes differ on whether they read a key that states it. Raises CheckpointError for another value.
        """
        value, key = self.value(facts), self.path.rsplit(".", 1)[-1]
        if config.get(key) not in (None, value):
            raise config.wrong(key, f"{value}, which this family computes from other keys")
        return {self.path: value}

    def write(self, facts: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """Return no keys."""
        return {}


@dataclass(frozen=True)
class Fixed:
    """A key that must be null or have one value, because the table describes only models with it."""

    key: str
    value: Any
    why: str

    def read(self, config: Config, facts: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Return no facts. Raises CheckpointError for another value, with the reason `why`."""
        if config.get(self.key) not in (None, self.value):
            raise config.wrong(self.key, f"{self.value!r}: {self.why}")
        return {}

    def write(self, facts: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """Return no keys: the value is the model class's default."""
        return {}
