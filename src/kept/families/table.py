"""A family is one reversible table: items map config keys to facts, entries map stored tensors to slots.

A fact that a config cannot state comes back different when the config is written and read again.
`Family.violations` returns these differences. So a table that reads and writes is also the list of what its target can
express.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, get_args

from kept.errors import CheckpointError
from kept.families.classes import check_classes, code_note
from kept.families.config import Config
from kept.families.head import HeadItem
from kept.families.lengths import stock_rule
from kept.families.paths import LAYER, layer_values
from kept.families.published import check_unknown, unknown_note
from kept.families.tensors import TensorTable
from kept.families.unread import check_buffers, check_unread
from kept.ir.facts import Facts, Violation, across, build_spec, differences, flatten
from kept.ir.facts import facts as facts_of
from kept.ir.program import Program
from kept.ir.spec.layer import BranchName
from kept.ir.tensors import TORCH_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kept.families.entries import Entry
    from kept.families.lengths import LengthRule
    from kept.ir.spec import Spec
    from kept.ir.tensors import Lazy


class Item(Protocol):
    """Some keys of a config and the facts that they state. `write` is the inverse of `read`.

    A fact is a path, such as `layers.*.mixer.attention.window`, and a value: one for all layers, or a `PerLayer`.
    `families/deci.py` has an item that reads a list with a value for each layer.
    """

    def read(self, config: Config, facts: Facts) -> Facts:
        """Return the facts that the config states; `facts` are those of the items before.

        Raises CheckpointError naming the key, its value and what it must be.
        """
        ...

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the keys that state these facts, as nearly as the config can."""
        ...


@dataclass(frozen=True)
class Family:
    """One family of checkpoints: how its configs and tensors state a spec and its weights.

    - `name`: the `model_type` of its configs. `architecture`: its model class. `also`: other names of the class.
    - `items`: config keys, each after the items whose facts it needs. `aliases`: other names of config keys, mapped to
      the names that the items read.
    - `entries`: stored names of the slots. `ignored`: name patterns of stored tensors that are no weights.
    - `optional`: branches that its configs can leave out of a layer.
    - `limits`: conditions on the spec that the transformers class checks on loading.
    - `stock`: transformers has a class for it. If not, keys that its own code does not read are refused or listed in a
      note (`families.published`).
    - `carries_code`: its class is not transformers' own, and an output has the code of it (`kept.native`).
    - `rule` returns the length beyond which its class behaves differently (`families.lengths`). `score_limit` is the
      magnitude at which the class clips attention scores before the softmax, None if it does not.
    """

    name: str
    architecture: str
    items: tuple[Item, ...]
    entries: tuple[Entry, ...]
    ignored: tuple[str, ...] = ()
    optional: frozenset[BranchName] = frozenset()
    limits: tuple[Callable[[Spec], Violation | None], ...] = ()
    stock: bool = True
    carries_code: bool = False
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

    @property
    def tensors(self) -> TensorTable:
        """The map between stored tensors and slots."""
        return TensorTable(self.name, self.entries, self.ignored)

    def length_rule(self, spec: Spec) -> LengthRule | None:
        """Return the length rule of the class for this spec; None if its behaviour depends on no length."""
        return self.rule(spec)

    def read_config(self, config: Mapping[str, Any]) -> Spec:
        """Return the architecture that a config describes. Raises CheckpointError naming the key."""
        return self._read(config)[0]

    def notes(self, config: Mapping[str, Any], tensors: Mapping[str, Lazy]) -> Iterator[str]:
        """Yield one-line notes on remote code, unknown keys and a stored head that are ignored."""
        keys = self._read(config)[1]
        found = [] if self.carries_code else [code_note(keys, self)]
        if not self.stock:
            found += [unknown_note(keys, self.name), self._head(config).note(self.read_config(config), tensors)]
        yield from (note for note in found if note is not None)

    def _read(self, config: Mapping[str, Any]) -> tuple[Spec, Config]:
        """Return the spec, and the config with its record of the keys that were read."""
        facts: Facts = {}
        keys = self._renamed(Config(config))
        for item in self.items:
            for path, value in item.read(keys, facts).items():
                facts.update(flatten(path, value))
        check_unread(keys, facts)
        check_classes(keys, self, tied=facts["head.tied"])
        if not self.stock:
            check_unknown(keys, self.name)
        return build_spec(facts), keys

    def write_config(self, spec: Spec, dtype: str) -> dict[str, Any]:
        """Return the config of a spec, readable by transformers 4.41 to 5.x. `dtype` is a safetensors name."""
        facts = facts_of(spec)
        out: dict[str, Any] = {"architectures": [self.architecture], "model_type": self.name}
        for item in self.items:
            out.update(item.write(facts))
        return {**out, "torch_dtype": TORCH_NAMES[dtype], "dtype": TORCH_NAMES[dtype], "use_cache": True}

    def violations(self, spec: Spec) -> list[Violation]:
        """Return what this family cannot express of the spec; empty if it can express all of it.

        The rest of the spec is compared only if the kinds of its operations can be expressed: facts of other kinds have
        no place in the table.
        """
        other = [*self._other_kinds(spec)]
        if other:
            return other
        try:
            expressed = self.read_config(self.write_config(spec, "F32"))
        except CheckpointError as error:
            return [Violation("config", "beyond what its keys can say", str(error))]
        found = [*differences(facts_of(spec), facts_of(expressed))]
        return found or [v for limit in self.limits if (v := limit(spec)) is not None]

    def read(self, config: Mapping[str, Any], tensors: Mapping[str, Lazy], *, tie: bool | None = None) -> Program:
        """Return the program of a checkpoint. `tie` is the user's choice of the head (`families.head.HeadItem`).

        Raises CheckpointError for a missing, misshapen or unexpected tensor, by the checkpoint's own name.
        """
        spec, stored = self._head(config, tie).settle(self.read_config(config), self.tensors.with_prefix(tensors))
        check_buffers(stored, spec)
        return Program(spec, self.tensors.read(spec, stored))

    def write(self, program: Program) -> dict[str, Lazy]:
        """Return the tensors of a program under this family's names and layouts."""
        return self.tensors.write(program)

    def places(self, spec: Spec) -> dict[str, str]:
        """Return the slot that each tensor of a checkpoint holds, or holds a part of, by the tensor's name."""
        return self.tensors.slots_by_name(spec)

    def _other_kinds(self, spec: Spec) -> Iterator[Violation]:
        """Yield the branches of a kind that no entry names, or that are absent; the first kind named is needed."""
        table = facts_of(spec)
        for branch in get_args(BranchName):
            path = f"{LAYER}{branch}"
            known = self.tensors.kinds(branch) or (None,)
            allowed = {*known, None} if branch in self.optional else {*known}
            said = (kind if kind in allowed else known[0] for kind in layer_values(table, path))
            yield from differences({path: table[path]}, {path: across(said)})

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

    def _head(self, config: Mapping[str, Any], tie: bool | None = None) -> HeadItem:  # noqa: FBT001 - None is a third choice
        assumed = not self.stock and config.get("tie_word_embeddings") is None
        embedding, head = (self.tensors.name_of(slot) for slot in ("embedding.weight", "head.weight"))
        return HeadItem(embedding, head, tie, assumed=assumed)
