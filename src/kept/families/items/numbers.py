"""Items of numbers: epsilons, multipliers, caps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kept.families.paths import ATTENTION, first_value

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts

SMALLEST_FACTOR, LARGEST_FACTOR = 1e-30, 1e30
"""Limits of a multiplier: beyond them, it or its inverse is not a float32."""


@dataclass(frozen=True)
class Number:
    """A number that several facts share; `default` is the model class's if the key is absent."""

    key: str
    paths: tuple[str, ...]
    default: float

    def read(self, config: Config, facts: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Return the facts."""
        return dict.fromkeys(self.paths, config.number(self.key, self.default))

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key, with the first value that is not 0: a norm of kind none has an epsilon of 0."""
        values = [v for path in self.paths if (v := first_value(facts, path)) is not None]
        return {self.key: next((v for v in values if v), values[0] if values else self.default)}


@dataclass(frozen=True)
class Power:
    """A fact that is the key's number to some power, such as a multiplier that the config states as a divisor."""

    key: str
    path: str
    power: float
    default: float

    def read(self, config: Config, facts: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Return the fact. Raises CheckpointError for a number beyond float32."""
        number = config.positive(self.key, self.default)
        if not SMALLEST_FACTOR <= number <= LARGEST_FACTOR:
            raise config.wrong(self.key, f"between {SMALLEST_FACTOR} and {LARGEST_FACTOR}")
        return {self.path: number**self.power}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key."""
        return {self.key: self.number(first_value(facts, self.path))}

    def number(self, fact: float | None) -> float:
        """Return the shortest number whose power is the fact to the bit; if there is none, the nearest."""
        if fact is None:
            return self.default
        nearest = min(max(fact, SMALLEST_FACTOR), LARGEST_FACTOR) ** (1 / self.power)
        near = (float(f"{nearest:.12g}"), nearest, math.nextafter(nearest, 0), math.nextafter(nearest, math.inf))
        found = next((number for number in near if number**self.power == fact), nearest)
        return int(found) if found.is_integer() else found


@dataclass(frozen=True)
class Scale(Power):
    """The factor on attention scores. The fact is None for `head_dim^-0.5`. Comes after the head size.

    `optional`: an absent or null key means `head_dim^-0.5`, not `default`.
    """

    path: str = field(default=f"{ATTENTION}scale")
    power: float = 1.0
    default: float = 1.0
    optional: bool = False

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the fact."""
        if self.optional and config.get(self.key) is None:
            return {self.path: None}
        found = super().read(config, facts)
        return {self.path: None} if found[self.path] == facts[f"{ATTENTION}head_dim"] ** -0.5 else found

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key."""
        scale = first_value(facts, self.path)
        return {self.key: self.number(first_value(facts, f"{ATTENTION}head_dim") ** -0.5 if scale is None else scale)}


@dataclass(frozen=True)
class Cap:
    """The cap `c` of `c tanh(x / c)`, or null for none; `default` is the model class's if the key is absent."""

    key: str
    path: str
    default: float | None = None

    def read(self, config: Config, facts: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Return the fact."""
        if config.get(self.key) is None and (config.states(self.key) or self.default is None):
            return {self.path: None}
        return {self.path: config.positive(self.key, self.default)}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key."""
        return {self.key: first_value(facts, self.path)}
