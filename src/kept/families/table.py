"""A family is one reversible table: config keys against facts, tensor names against slots.

What a config cannot say comes back different when it is written and read again; `Family.violations` is that
difference. So a table that reads and writes is also the list of what its target can express.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, Literal, Protocol

from kept.errors import CheckpointError
from kept.families.classes import check_classes, code_note
from kept.families.config import Config
from kept.families.head import HeadItem
from kept.families.lengths import stock_rule
from kept.families.published import check_unknown, unknown_note
from kept.families.unread import check_buffers, check_unread
from kept.ir.facts import Facts, Violation, build_spec, differences, facts, flatten
from kept.ir.program import Program
from kept.ir.slots import slots
from kept.ir.tensors import DTYPE_BYTES, TORCH_NAMES, Computed, Lazy, Stored, join, take_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch

    from kept.families.lengths import LengthRule
    from kept.ir.spec import Attention, Spec

L = "layers.*."
"""Prefix of the facts of every layer."""

ATTENTION = f"{L}mixer.attention."
"""Prefix of the facts of every layer's softmax attention."""

MLP = f"{L}mlp.dense."
"""Prefix of the facts of every layer's MLP."""


class Item(Protocol):
    """Some keys of a config and the facts that they state: each item knows its inverse."""

    def read(self, config: Config, known: Facts) -> Facts:
        """The facts that the config states; `known` are those of the items before."""
        ...

    def write(self, table: Facts) -> dict[str, Any]:
        """The keys that state these facts, as near as the config can."""
        ...


Layout = Literal["same", "transposed", "stacked", "grouped"]


@dataclass(frozen=True)
class Entry:
    """One tensor, by the slot's name and by theirs; `{i}` is the layer.

    transposed: stored (in, out). stacked: one stored tensor a head, `{h}` in the name. grouped: of a fused projection,
    each key-value head's query heads, key and value stand together, where a slot has all queries, keys, values.
    `when` says which specs use this name, where a slot has several.
    """

    slot: str
    name: str
    layout: Layout = "same"
    when: Callable[[Spec], bool] | None = None


@dataclass(frozen=True)
class Family:
    """How one family of checkpoints says what a spec says.

    `rule` returns the length beyond which its class behaves differently (`families.lengths`). `score_limit` is the
    magnitude at which the class clips attention scores before the softmax, None if it does not.

    `stock`: transformers has a class for it. `also`: other names of the class. `aliases`: other names of config keys,
    mapped to the names that the items read. `limits`: conditions on the spec that the transformers class checks on
    loading.
    """

    name: str
    architecture: str
    items: tuple[Item, ...]
    entries: tuple[Entry, ...]
    ignored: tuple[str, ...] = ()
    limits: tuple[Callable[[Spec], Violation | None], ...] = ()
    stock: bool = True
    rule: Callable[[Spec], LengthRule | None] = stock_rule
    score_limit: float | None = None
    also: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)

    @property
    def architectures(self) -> tuple[str, ...]:
        """All names of the family's model class."""
        return (self.architecture, *self.also)

    @property
    def bare(self) -> str:
        """The name of the family's base-model class, without an LM head."""
        return re.sub("ForCausalLM$|LMHeadModel$", "Model", self.architecture)

    def length_rule(self, spec: Spec) -> LengthRule | None:
        """Return the length rule of the class for this spec; None if its behaviour depends on no length."""
        return self.rule(spec)

    def read_config(self, config: Mapping[str, Any]) -> Spec:
        """The architecture that a config describes. Raises CheckpointError naming the key."""
        return self._read(config)[0]

    def notes(self, config: Mapping[str, Any], tensors: Mapping[str, Lazy]) -> Iterator[str]:
        """Yield one-line notes on remote code, unknown keys and a stored head that are ignored."""
        keys = self._read(config)[1]
        found = [code_note(keys, self)]
        if not self.stock:
            found += [unknown_note(keys, self.name), self._head(config).note(self.read_config(config), tensors)]
        yield from (note for note in found if note is not None)

    def _read(self, config: Mapping[str, Any]) -> tuple[Spec, Config]:
        """Return the spec, and the config with its record of the keys that were read."""
        known: Facts = {}
        keys = self._renamed(Config(config))
        for item in self.items:
            for path, value in item.read(keys, known).items():
                known.update(flatten(path, value))
        check_unread(keys, known)
        check_classes(keys, self, tied=known["head.tied"])
        if not self.stock:
            check_unknown(keys, self.name)
        return build_spec(known), keys

    def write_config(self, spec: Spec, dtype: str) -> dict[str, Any]:
        """The config of a spec, readable by transformers 4.41 to 5.x."""
        table = facts(spec)
        out: dict[str, Any] = {"architectures": [self.architecture], "model_type": self.name}
        for item in self.items:
            out.update(item.write(table))
        return {**out, "torch_dtype": TORCH_NAMES[dtype], "dtype": TORCH_NAMES[dtype], "use_cache": True}

    def violations(self, spec: Spec) -> list[Violation]:
        """What this family cannot express of the spec; empty where it can express all."""
        try:
            said = self.read_config(self.write_config(spec, "F32"))
        except CheckpointError as error:
            return [Violation("config", "beyond what its keys can say", str(error))]
        found = [*differences(facts(spec), facts(said))]
        return found or [v for limit in self.limits if (v := limit(spec)) is not None]

    def read(self, config: Mapping[str, Any], tensors: Mapping[str, Lazy], *, tie: bool | None = None) -> Program:
        """Return the program of a checkpoint. `tie` is the user's choice of the head (`families.head.Head`).

        Raises CheckpointError for a missing, misshapen or unexpected tensor, by the checkpoint's own name.
        """
        spec = self.read_config(config)
        spec, tensors = self._head(config, tie).settle(spec, self._with_prefix(tensors))
        check_buffers(tensors, spec)
        weights: dict[str, Lazy] = {}
        used: set[str] = set()
        for slot, info in slots(spec).items():
            entry = self._entry(slot, spec)
            stored = entry_names(entry, slot, info.shape)
            used.update(stored)
            found = [_checked(tensors, name, shape) for name, shape in stored.items()]
            weights[slot] = _to_slot(entry, found, spec, slot)
        for name in tensors:
            if name not in used and not self._ignores(name):
                raise CheckpointError(
                    f"{name}: {self.name} has no place for this tensor; is the config's model_type right?"
                )
        return Program(spec, weights)

    def write(self, program: Program) -> dict[str, Lazy]:
        """The tensors of a program under this family's names and layouts."""
        out: dict[str, Lazy] = {}
        for slot, tensor in program.weights.items():
            entry = self._entry(slot, program.spec)
            stored = _from_slot(entry, tensor, program.spec, slot)
            out.update(zip(entry_names(entry, slot, tensor.shape), stored, strict=True))
        return out

    def places(self, spec: Spec) -> dict[str, str]:
        """The slot that each tensor of a checkpoint holds, or holds a part of, by the tensor's name."""
        return {
            name: slot
            for slot, info in slots(spec).items()
            for name in entry_names(self._entry(slot, spec), slot, info.shape)
        }

    def _renamed(self, config: Config) -> Config:
        """Return the config with aliases renamed. Raises CheckpointError if an alias and its key differ in value."""
        keys = dict(config.keys)
        for alias, key in self.aliases.items():
            value = keys.pop(alias, None)
            if value is None:
                continue
            if keys.get(key) not in (None, value):
                raise config.wrong(alias, f"{keys[key]} or absent: it is another name of {key}, which is {keys[key]}")
            keys[key] = value
        return Config(keys, config.where)

    def _name(self, slot: str) -> str:
        return next(entry.name for entry in self.entries if entry.slot == slot)

    def _head(self, config: Mapping[str, Any], tie: bool | None = None) -> HeadItem:  # noqa: FBT001 - None is a third choice
        assumed = not self.stock and config.get("tie_word_embeddings") is None
        return HeadItem(self._name("embedding.weight"), self._name("head.weight"), tie, assumed=assumed)

    def _with_prefix(self, tensors: Mapping[str, Lazy]) -> Mapping[str, Lazy]:
        """Return the tensors with full names: those of a base model lack the prefix, as `model.` or `transformer.`."""
        prefix = self._name("embedding.weight").partition(".")[0] + "."
        if any(name.startswith(prefix) for name in tensors):
            return tensors
        named = {entry.name for entry in self.entries}
        return {name if name in named else prefix + name: tensor for name, tensor in tensors.items()}

    def _entry(self, slot: str, spec: Spec) -> Entry:
        pattern = _LAYER.sub("layers.{i}.", slot)
        named = (entry for entry in self.entries if entry.slot == pattern)
        entry = next((entry for entry in named if entry.when is None or entry.when(spec)), None)
        assert entry is not None, f"{self.name} has no tensor for {slot}: violations() should have said so"
        return entry

    def _ignores(self, name: str) -> bool:
        return any(fnmatch(name, pattern) for pattern in self.ignored)


_LAYER = re.compile(r"^layers\.(\d+)\.")


def linear(slot: str, name: str, layout: Layout = "same") -> tuple[Entry, Entry]:
    """The weight and the bias of a projection. A bias has no second axis that could be transposed."""
    of_bias: Layout = "same" if layout == "transposed" else layout
    return Entry(f"{slot}.weight", f"{name}.weight", layout), Entry(f"{slot}.bias", f"{name}.bias", of_bias)


def norm(slot: str, name: str, when: Callable[[Spec], bool] | None = None) -> tuple[Entry, Entry]:
    """The gain and the bias of a norm."""
    return Entry(f"{slot}.gain", f"{name}.weight", when=when), Entry(f"{slot}.bias", f"{name}.bias", when=when)


def entry_names(entry: Entry, slot: str, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """The stored names of a slot with the shape each has in the file."""
    layer = _LAYER.match(slot)
    name = entry.name.replace("{i}", layer[1]) if layer else entry.name
    match entry.layout:
        case "same" | "grouped":
            return {name: shape}
        case "transposed":
            return {name: (shape[1], shape[0])}
        case "stacked":
            return {name.replace("{h}", str(head)): shape[1:] for head in range(shape[0])}


def _checked(tensors: Mapping[str, Lazy], name: str, shape: tuple[int, ...]) -> Lazy:
    if name not in tensors:
        raise CheckpointError(f"{name}: missing from the checkpoint; the config asks for it with shape {list(shape)}")
    if tensors[name].shape != shape:
        raise CheckpointError(f"{name}: has shape {list(tensors[name].shape)}, the config asks for {list(shape)}")
    if tensors[name].dtype not in DTYPE_BYTES:
        known = ", ".join(DTYPE_BYTES)
        raise CheckpointError(f"{name}: has dtype {tensors[name].dtype}; supported dtypes of weights are {known}")
    return tensors[name]


def _transpose(matrix: torch.Tensor) -> torch.Tensor:
    return matrix.T


def _stack(*rows: torch.Tensor) -> torch.Tensor:
    out = rows[0].new_empty((len(rows), *rows[0].shape))
    for i, row in enumerate(rows):
        out[i] = row
    return out


def _to_slot(entry: Entry, stored: list[Lazy], spec: Spec, slot: str) -> Lazy:
    first = stored[0]
    match entry.layout:
        case "same":
            return first
        case "transposed":
            return _transposed(first)
        case "stacked":
            return Computed((len(stored), *first.shape), first.dtype, _stack, tuple(stored))
        case "grouped":
            return join([take_rows(first, *rows) for rows in _by_part(_mixer(spec, slot))])


def _from_slot(entry: Entry, tensor: Lazy, spec: Spec, slot: str) -> list[Lazy]:
    match entry.layout:
        case "same":
            return [tensor]
        case "transposed":
            return [_transposed(tensor)]
        case "stacked":
            return [_row(tensor, head) for head in range(tensor.shape[0])]
        case "grouped":
            return [join([take_rows(tensor, *rows) for rows in _by_group(_mixer(spec, slot))])]


def _mixer(spec: Spec, slot: str) -> Attention:
    layer = _LAYER.match(slot)
    assert layer is not None
    attention = spec.layers[int(layer[1])].attention
    assert attention is not None
    return attention


def _by_part(mixer: Attention) -> Iterator[tuple[int, int]]:
    """Runs of rows of a grouped projection: first all queries, then all keys, then all values."""
    size, queries = mixer.head_dim, mixer.heads // mixer.kv_heads
    for begin, heads in ((0, queries), (queries, 1), (queries + 1, 1)):
        for group in range(mixer.kv_heads):
            start = (group * (queries + 2) + begin) * size
            yield start, start + heads * size


def _by_group(mixer: Attention) -> Iterator[tuple[int, int]]:
    """Runs of rows of a projection in parts: for each key-value head its queries, its key, its value."""
    size, queries = mixer.head_dim, mixer.heads // mixer.kv_heads
    for group in range(mixer.kv_heads):
        for start, heads in (
            (group * queries, queries),
            (mixer.heads + group, 1),
            (mixer.heads + mixer.kv_heads + group, 1),
        ):
            yield start * size, (start + heads) * size


def _transposed(tensor: Lazy) -> Lazy:
    if isinstance(tensor, Computed) and tensor.op is _transpose:
        return tensor.sliced[0]
    return Computed((tensor.shape[1], tensor.shape[0]), tensor.dtype, _transpose, (tensor,))


def _row(tensor: Lazy, row: int) -> Lazy:
    if isinstance(tensor, Computed) and tensor.op is _stack:
        return tensor.sliced[row]
    taken = take_rows(tensor, row, row + 1)
    if isinstance(taken, Stored):
        return Stored(tensor.shape[1:], tensor.dtype, taken.file, taken.offset)
    return Computed(tensor.shape[1:], tensor.dtype, _only, (taken,))


def _only(rows: torch.Tensor) -> torch.Tensor:
    return rows[0]
