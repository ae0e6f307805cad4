"""Items of flags and of names from a list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kept.families.paths import ATTENTION, first_value
from kept.ir.facts import ABSENT, PerLayer
from kept.ir.spec import Norm, QkNorm

if TYPE_CHECKING:
    from kept.families.config import Config
    from kept.ir.facts import Facts


@dataclass(frozen=True)
class Flag:
    """True or false for several facts at once; `default` is the model class's if the key is absent."""

    key: str
    paths: tuple[str, ...]
    default: bool = False

    def read(self, config: Config, facts: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Return the facts."""
        return dict.fromkeys(self.paths, config.flag(self.key, self.default))

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return true if any layer has any of the facts: a pass can add what is missing, but not drop what is there."""
        return {self.key: any(_is_true(facts.get(path)) for path in self.paths)}


def _is_true(value: object) -> bool:
    """Whether a fact is true in any layer."""
    values = value.values if isinstance(value, PerLayer) else (value,)
    return any(one for one in values if one is not ABSENT)


@dataclass(frozen=True)
class Choice:
    """A name from a list: `names` has pairs of a name in configs and the fact's value.

    `default` is the model class's name if the key is absent. Of several names of a value, the default or else the first
    is written.
    """

    key: str
    path: str
    names: tuple[tuple[str, Any], ...]
    default: str

    def read(self, config: Config, facts: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Return the fact. Raises CheckpointError for a name that is not in the list."""
        name = self.default if config.get(self.key) is None else config.get(self.key)
        if not isinstance(name, str) or name not in dict(self.names):
            raise config.wrong(self.key, "one of " + ", ".join(one for one, _ in self.names))
        return {self.path: dict(self.names)[name]}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key; the default for a value without a name."""
        wanted = first_value(facts, self.path)
        if dict(self.names)[self.default] == wanted:
            return {self.key: self.default}
        return {self.key: next((name for name, value in self.names if value == wanted), self.default)}


ACTIVATIONS_WITHOUT_SILU = (
    ("gelu_pytorch_tanh", "gelu_tanh"),
    ("gelu_new", "gelu_tanh"),
    ("gelu_fast", "gelu_tanh"),
    ("gelu", "gelu"),
    ("gelu_python", "gelu"),
    ("relu", "relu"),
    ("relu2", "relu2"),
)

ACTIVATIONS = (("silu", "silu"), ("swish", "silu"), *ACTIVATIONS_WITHOUT_SILU)
"""Names of activations in transformers, and in specs. The tanh forms differ in rounding only."""


@dataclass(frozen=True)
class HeadNorms:
    """A flag for LayerNorms of queries and keys, each with its own gain or one for all. Comes after the epsilon."""

    key: str
    scope: Literal["shared", "own"]
    bias: bool = False
    path: str = field(default=f"{ATTENTION}qk_norm")

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the fact."""
        norm = Norm("layer", facts["final_norm.eps"], bias=self.bias)
        return {self.path: QkNorm(norm, self.scope) if config.flag(self.key, default=False) else None}

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the key."""
        return {self.key: first_value(facts, self.path) is not None}
