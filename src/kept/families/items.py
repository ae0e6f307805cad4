"""The items that family tables are made of: each reads some config keys and writes them back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from kept.families.config import LARGEST
from kept.families.table import ATTENTION, L
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


def by_layer(table: Facts, path: str) -> tuple[Any, ...]:
    """A fact's value in each layer."""
    value = table.get(path)
    return value.values if isinstance(value, PerLayer) else (value,) * table["depth"]


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
        found, heads = super().read(config, known), known[f"{ATTENTION}heads"]
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
        """Facts to key. What no norm has for an epsilon, 0, is not what the others have."""
        values = [v for path in self.paths if (v := first(table, path)) is not None]
        return {self.key: next((v for v in values if v), values[0] if values else self.default)}


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

    path: str = field(default=f"{ATTENTION}scale")
    power: float = 1.0
    default: float = 1.0

    def read(self, config: Config, known: Facts) -> Facts:
        """Key to fact."""
        found = super().read(config, known)
        return {self.path: None} if found[self.path] == known[f"{ATTENTION}head_dim"] ** -0.5 else found

    def write(self, table: Facts) -> dict[str, Any]:
        """Fact to key."""
        scale = first(table, self.path)
        return {self.key: self.number(first(table, f"{ATTENTION}head_dim") ** -0.5 if scale is None else scale)}


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
    """A word out of a list; `words` maps theirs to ours. Of equals the default is written, else the first."""

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
        if dict(self.words)[self.default] == value:
            return {self.key: self.default}
        return {self.key: next((theirs for theirs, ours in self.words if ours == value), self.default)}


@dataclass(frozen=True)
class Cap:
    """The bound of a tanh, or null for none; `default` is the stock class's where the key is absent."""

    key: str
    path: str
    default: float

    def read(self, config: Config, known: Facts) -> Facts:  # noqa: ARG002 - an item's signature
        """Key to fact."""
        if config.states(self.key) and config.get(self.key) is None:
            return {self.path: None}
        return {self.path: config.positive(self.key, self.default)}

    def write(self, table: Facts) -> dict[str, Any]:
        """Fact to key."""
        return {self.key: first(table, self.path)}


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
class DerivedFact:
    """A fact that the family computes from others. A config may state it under the fact's name, but not otherwise."""

    path: str
    value: Callable[[Facts], Any]

    def read(self, config: Config, known: Facts) -> Facts:
        """The computed fact. Classes differ on whether they read a key that states it: another value is refused."""
        value, key = self.value(known), self.path.rsplit(".", 1)[-1]
        if config.get(key) not in (None, value):
            raise config.wrong(key, f"{value}, which this family computes from other keys")
        return {self.path: value}

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
    return int(known["width"] // known[f"{ATTENTION}heads"])


def as_many_as_queries(known: Facts) -> int:
    """Key-value heads where the config does not give them."""
    return int(known[f"{ATTENTION}heads"])


def one_shared_norm(known: Facts) -> Facts:
    """Return the facts of an MLP that shares the mixer's norm; `known` are those of its own norm, which go."""
    own = dict.fromkeys((f"{L}mlp_norm", *(path for path in known if path.startswith(f"{L}mlp_norm."))))
    return {**own, f"{L}shared_norm": True}


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
    path: str = field(default=f"{ATTENTION}qk_norm")

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
        """Read ids into facts. A null key means no such token; an absent key means the default."""
        vocabulary = known["vocabulary"]
        return {
            "tokens.bos": self._token(config, "bos_token_id", config.get("bos_token_id", self.bos), vocabulary),
            "tokens.eos": self._end(config, vocabulary),
            "tokens.pad": self._token(config, "pad_token_id", config.get("pad_token_id", self.pad), vocabulary),
        }

    def write(self, table: Facts) -> dict[str, Any]:
        """Facts to ids."""
        eos = table.get("tokens.eos")
        return {
            "bos_token_id": table.get("tokens.bos"),
            "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
            "pad_token_id": table.get("tokens.pad"),
        }

    def _token(self, config: Config, key: str, value: object, vocabulary: int) -> int | None:
        """Return a token id; None if it is outside the vocabulary, as the common -1 is."""
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise config.wrong(key, "a token id")
        return value if value is not None and 0 <= value < vocabulary else None

    def _end(self, config: Config, vocabulary: int) -> int | tuple[int, ...] | None:
        key = "eos_token_id"
        value = config.get(key, self.eos)
        if not isinstance(value, list):
            return self._token(config, key, value, vocabulary)
        if None in value:
            raise config.wrong(key, "a list of token ids")
        found = (self._token(config, key, token, vocabulary) for token in value)
        return tuple(token for token in found if token is not None) or None


@dataclass(frozen=True)
class Window:
    """One sliding window for all layers, or null; `default` is the stock class's where the key is absent."""

    default: int | None = None
    path: str = field(default=f"{ATTENTION}window")

    def read(self, config: Config, known: Facts) -> Facts:
        """Key to fact. Types of layers, which newer classes read, may say nothing else."""
        size = self.default
        if config.states("sliding_window"):
            size = None if config.get("sliding_window") is None else config.size("sliding_window")
        types = [LAYER_TYPES[size is not None]] * known["depth"]
        if config.get("layer_types") not in (None, types):
            raise config.wrong("layer_types", f"{types[0]} for every layer, as sliding_window says")
        return {self.path: size}

    def write(self, table: Facts) -> dict[str, Any]:
        """Fact to key."""
        return {"sliding_window": first(table, self.path)}


LAYER_TYPES = ("full_attention", "sliding_attention")


def slides_from_a_layer_on(config: Config, known: Facts) -> list[str]:
    """Qwen's: the first `max_window_layers` layers see all."""
    start = config.number("max_window_layers", 28)
    return [LAYER_TYPES[i >= start] for i in range(known["depth"])]


@dataclass(frozen=True)
class LayerWindows:
    """One window for the layers whose type slides; `types` is what the stock class assumes without `layer_types`.

    `default` is its window where the key is absent; `switched` whether `use_sliding_window` must be true.
    """

    types: Callable[[Config, Facts], list[str]]
    default: int | None = 4096
    switched: bool = False
    path: str = field(default=f"{ATTENTION}window")

    def read(self, config: Config, known: Facts) -> Facts:
        """Keys to one fact a layer."""
        types, stated = self._types(config, known), config.states("sliding_window")
        if self.switched and not config.flag("use_sliding_window", default=False):
            if config.get("layer_types") is not None and LAYER_TYPES[True] in types:
                raise config.wrong("use_sliding_window", f"true where layer_types has {LAYER_TYPES[True]}")
            return {self.path: None}
        size = self.default
        if stated:
            size = None if config.get("sliding_window") is None else config.size("sliding_window")
        values = tuple(size if kind == LAYER_TYPES[True] else None for kind in types)
        return {self.path: values[0] if len(set(values)) == 1 else PerLayer(values)}

    def _types(self, config: Config, known: Facts) -> list[str]:
        depth, types = known["depth"], config.get("layer_types")
        if types is None:
            return self.types(config, known)
        if not isinstance(types, list) or len(types) != depth or not all(t in LAYER_TYPES for t in types):
            raise config.wrong("layer_types", f"a list of {depth} of " + ", ".join(LAYER_TYPES))
        return types

    def write(self, table: Facts) -> dict[str, Any]:
        """Facts to keys. Classes without a switch must find a size even where no layer slides."""
        values = by_layer(table, self.path)
        size = next((v for v in values if v is not None), None)
        types = [LAYER_TYPES[v is not None] for v in values]
        if not self.switched:
            return {"sliding_window": size or self.default, "layer_types": types}
        return {"use_sliding_window": size is not None, "sliding_window": size, "layer_types": types}


@dataclass(frozen=True)
class LayeredWindow(LayerWindows):
    """Qwen2's: a switch, a size, and the first layer that slides; newer files list each layer's type."""

    types: Callable[[Config, Facts], list[str]] = slides_from_a_layer_on
    switched: bool = True

    def write(self, table: Facts) -> dict[str, Any]:
        """Facts to keys."""
        values = by_layer(table, self.path)
        start = next((i for i, v in enumerate(values) if v is not None), len(values))
        return {**super().write(table), "max_window_layers": start}
