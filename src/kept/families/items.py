"""The items that family tables are made of: each reads some config keys and writes them back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kept.families.config import LARGEST
from kept.families.table import L
from kept.ir import spec as ir
from kept.ir.facts import ABSENT, PerLayer

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.families.config import Config
    from kept.ir.facts import Facts


def first(table: Facts, path: str) -> Any:  # noqa: ANN401 - facts hold any plain value
    """A fact's value; of one that differs between layers the first that there is, None where there is none."""
    value = table.get(path)
    if isinstance(value, PerLayer):
        value = next((v for v in value.values if v is not ABSENT), None)
    return value


@dataclass(frozen=True)
class Size:
    """A positive integer; `default` is what the stock class assumes where the key is absent."""

    key: str
    path: str
    default: int | Callable[[Facts], int] | None = None
    largest: int = LARGEST

    def read(self, config: Config, known: Facts) -> Facts:
        """Key to fact."""
        default = self.default(known) if callable(self.default) else self.default
        return {self.path: config.size(self.key, default, self.largest)}

    def write(self, table: Facts) -> dict[str, Any]:
        """Fact to key."""
        return {self.key: first(table, self.path)}


DEEPEST = 1000
"""Layers: a spec holds one value for each, so that this bounds what a damaged config can cost."""


@dataclass(frozen=True)
class KeyValueHeads(Size):
    """Key-value heads: each serves as many query heads as any other."""

    def read(self, config: Config, known: Facts) -> Facts:
        """Key to fact."""
        found, heads = super().read(config, known), known[f"{L}mixer.heads"]
        if heads % found[self.path]:
            raise config.wrong(self.key, f"a divisor of the {heads} query heads")
        return found


@dataclass(frozen=True)
class Number:
    """A number that several facts share."""

    key: str
    paths: tuple[str, ...]
    default: float

    def read(self, config: Config, known: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Key to facts."""
        return dict.fromkeys(self.paths, config.number(self.key, self.default))

    def write(self, table: Facts) -> dict[str, Any]:
        """Facts to key."""
        return {self.key: next((v for path in self.paths if (v := first(table, path)) is not None), self.default)}


@dataclass(frozen=True)
class Power:
    """A fact that is the key's number to some power, such as a multiplier that the config states as a divisor."""

    key: str
    path: str
    power: float
    default: float

    def read(self, config: Config, known: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Key to fact."""
        number = config.positive(self.key, self.default)
        if not SMALLEST_FACTOR <= number <= LARGEST_FACTOR:
            raise config.wrong(self.key, f"between {SMALLEST_FACTOR} and {LARGEST_FACTOR}")
        return {self.path: number**self.power}

    def write(self, table: Facts) -> dict[str, Any]:
        """Fact to the roundest number that gives it to the bit."""
        return {self.key: self.number(first(table, self.path))}

    def number(self, fact: float | None) -> float:
        """The inverse of a power; where no float gives the fact, the nearest."""
        if fact is None:
            return self.default
        nearest = min(max(fact, SMALLEST_FACTOR), LARGEST_FACTOR) ** (1 / self.power)
        near = (float(f"{nearest:.12g}"), nearest, math.nextafter(nearest, 0), math.nextafter(nearest, math.inf))
        found = next((number for number in near if number**self.power == fact), nearest)
        return int(found) if found.is_integer() else found


SMALLEST_FACTOR, LARGEST_FACTOR = 1e-30, 1e30
"""Beyond these a multiplier or its inverse leaves float32."""


@dataclass(frozen=True)
class Scale(Power):
    """The factor on scores. `head_dim^-0.5`, which attention has of itself, is none. Comes after the head size."""

    path: str = field(default=f"{L}mixer.scale")
    power: float = 1.0
    default: float = 1.0

    def read(self, config: Config, known: Facts) -> Facts:
        """Key to fact."""
        found = super().read(config, known)
        return {self.path: None} if found[self.path] == known[f"{L}mixer.head_dim"] ** -0.5 else found

    def write(self, table: Facts) -> dict[str, Any]:
        """Fact to key."""
        scale = first(table, self.path)
        return {self.key: self.number(first(table, f"{L}mixer.head_dim") ** -0.5 if scale is None else scale)}


@dataclass(frozen=True)
class Flag:
    """True or false for several facts at once."""

    key: str
    paths: tuple[str, ...]
    default: bool = False

    def read(self, config: Config, known: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Key to facts."""
        return dict.fromkeys(self.paths, config.flag(self.key, self.default))

    def write(self, table: Facts) -> dict[str, Any]:
        """True where any layer has any of the facts: what is missing can be filled, what is there not dropped."""
        values = [table.get(path) for path in self.paths]
        return {self.key: any(any(v.values) if isinstance(v, PerLayer) else bool(v) for v in values)}


@dataclass(frozen=True)
class Choice:
    """A word out of a list; `words` maps theirs to ours, the first of equals is written."""

    key: str
    path: str
    words: tuple[tuple[str, Any], ...]
    default: str

    def read(self, config: Config, known: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Word to fact."""
        word = self.default if config.get(self.key) is None else config.get(self.key)
        if not isinstance(word, str) or word not in dict(self.words):
            raise config.wrong(self.key, "one of " + ", ".join(theirs for theirs, _ in self.words))
        return {self.path: dict(self.words)[word]}

    def write(self, table: Facts) -> dict[str, Any]:
        """Fact to word."""
        value = first(table, self.path)
        return {self.key: next((theirs for theirs, ours in self.words if ours == value), self.default)}


@dataclass(frozen=True)
class Always:
    """Facts that hold for every model of the family and that its config does not mention."""

    values: tuple[tuple[str, Any], ...]

    def read(self, config: Config, known: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """The facts."""
        return dict(self.values)

    def write(self, table: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """Nothing to say."""
        return {}


@dataclass(frozen=True)
class Derived:
    """A fact that the family computes from others."""

    path: str
    value: Callable[[Facts], Any]

    def read(self, config: Config, known: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """The computed fact."""
        return {self.path: self.value(known)}

    def write(self, table: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """Nothing to say."""
        return {}


@dataclass(frozen=True)
class Fixed:
    """Keys that must have one value for the family to be what its table says; refused otherwise."""

    key: str
    value: Any
    why: str

    def read(self, config: Config, known: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Check."""
        if config.get(self.key) not in (None, self.value):
            raise config.wrong(self.key, f"{self.value!r}: {self.why}")
        return {}

    def write(self, table: Facts) -> dict[str, Any]:  # noqa: ARG002 - an item's signature
        """The stock class's own default says it."""
        return {}


NO_EXPERTS = Fixed("num_experts", value=None, why="mixtures of experts are not read")
"""For families whose mixtures of experts share the name of their dense models."""


def split_heads(known: Facts) -> int:
    """Head size where the config does not give it: width over heads."""
    return int(known["width"] // known[f"{L}mixer.heads"])


def as_many_as_queries(known: Facts) -> int:
    """Key-value heads where the config does not give them."""
    return int(known[f"{L}mixer.heads"])


def no_mlp_norm(known: Facts) -> Facts:
    """What takes a norm that is known away from the MLP, which then reads the mixer's."""
    return dict.fromkeys((f"{L}mlp_norm", *(path for path in known if path.startswith(f"{L}mlp_norm."))))


ACTIVATIONS = (
    ("silu", "silu"),
    ("swish", "silu"),
    ("gelu_pytorch_tanh", "gelu_tanh"),
    ("gelu_new", "gelu_tanh"),
    ("gelu_fast", "gelu_tanh"),
    ("gelu", "gelu"),
    ("gelu_python", "gelu"),
    ("relu", "relu"),
    ("relu2", "relu2"),
)
"""Names of activations in transformers, and ours. The tanh forms differ in rounding only."""


@dataclass(frozen=True)
class HeadNorms:
    """A flag for LayerNorms of queries and keys, each with its own gain or one for all. Comes after the epsilon."""

    key: str
    scope: Literal["shared", "own"]
    bias: bool = False
    path: str = field(default=f"{L}mixer.qk_norm")

    def read(self, config: Config, known: Facts) -> Facts:
        """Key to fact."""
        norm = ir.Norm("layer", known["final_norm.eps"], bias=self.bias)
        return {self.path: ir.QkNorm(norm, self.scope) if config.flag(self.key, default=False) else None}

    def write(self, table: Facts) -> dict[str, Any]:
        """Fact to key."""
        return {self.key: first(table, self.path) is not None}


@dataclass(frozen=True)
class SpecialTokens:
    """bos, eos (one or several) and pad; the defaults are the stock class's."""

    bos: int | None = None
    eos: int | None = None
    pad: int | None = None

    def read(self, config: Config, known: Facts) -> Facts:
        """Ids to facts. A key that is null means that there is none; an absent one the default."""
        return {
            "tokens.bos": self._one(config, "bos_token_id", self.bos),
            "tokens.eos": self._eos(config),
            "tokens.pad": self._within(self._one(config, "pad_token_id", self.pad), known["vocabulary"]),
        }

    def write(self, table: Facts) -> dict[str, Any]:
        """Facts to ids."""
        eos = table.get("tokens.eos")
        return {
            "bos_token_id": table.get("tokens.bos"),
            "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
            "pad_token_id": table.get("tokens.pad"),
        }

    def _within(self, pad: int | None, vocabulary: int) -> int | None:
        """None for a padding id that is no token (-1 is common): the stock classes index the embedding with it."""
        return pad if pad is not None and 0 <= pad < vocabulary else None

    def _one(self, config: Config, key: str, default: int | None) -> int | None:
        value = config.keys.get(key, default)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise config.wrong(key, "a token id")
        return value

    def _eos(self, config: Config) -> int | tuple[int, ...] | None:
        value = config.keys.get("eos_token_id", self.eos)
        if isinstance(value, list) and all(type(token) is int for token in value):
            return tuple(value)
        return self._one(config, "eos_token_id", self.eos)


@dataclass(frozen=True)
class Window:
    """One sliding window for all layers, or null; `default` is the stock class's where the key is absent."""

    default: int | None = None
    path: str = field(default=f"{L}mixer.window")

    def read(self, config: Config, known: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Key to fact."""
        if "sliding_window" not in config.keys:
            return {self.path: self.default}
        return {self.path: None if config.get("sliding_window") is None else config.size("sliding_window")}

    def write(self, table: Facts) -> dict[str, Any]:
        """Fact to key."""
        return {"sliding_window": first(table, self.path)}


LAYER_TYPES = ("full_attention", "sliding_attention")


@dataclass(frozen=True)
class LayeredWindow:
    """Qwen2's: a switch, a size, and the first layer that slides; newer files list each layer's type."""

    path: str = field(default=f"{L}mixer.window")

    def read(self, config: Config, known: Facts) -> Facts:
        """Keys to one fact a layer."""
        depth = known["depth"]
        if not config.flag("use_sliding_window", default=False):
            return {self.path: None}
        if "sliding_window" in config.keys and config.get("sliding_window") is None:
            return {self.path: None}
        size = config.size("sliding_window", 4096)
        types = config.get("layer_types")
        if types is None:
            start = config.number("max_window_layers", 28)
            types = ["sliding_attention" if i >= start else "full_attention" for i in range(depth)]
        if not isinstance(types, list) or len(types) != depth or not all(t in LAYER_TYPES for t in types):
            raise config.wrong("layer_types", f"a list of {depth} of " + ", ".join(LAYER_TYPES))
        values = tuple(size if kind == "sliding_attention" else None for kind in types)
        return {self.path: values[0] if len(set(values)) == 1 else PerLayer(values)}

    def write(self, table: Facts) -> dict[str, Any]:
        """Facts to keys."""
        depth, value = table["depth"], table.get(self.path)
        values = value.values if isinstance(value, PerLayer) else (value,) * depth
        size = next((v for v in values if v is not None), None)
        types = ["full_attention" if v is None else "sliding_attention" for v in values]
        start = next((i for i, v in enumerate(values) if v is not None), depth)
        return {
            "use_sliding_window": size is not None,
            "sliding_window": size,
            "max_window_layers": start,
            "layer_types": types,
        }
