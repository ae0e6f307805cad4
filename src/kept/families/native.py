"""Our own class (`model_type` kept): the config is the spec as JSON, and tensors have the names of the slots.

So every spec can be written, and `violations` is empty. The output carries the code that runs it
(`kept.native.carried_code`); reading one never runs that code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError
from kept.families.config import LARGEST
from kept.families.entries import Entry
from kept.families.items import SpecialTokens
from kept.families.table import Family
from kept.families.tensors import StoredSlot, TensorTable
from kept.ir.facts import PerLayer, build_spec
from kept.ir.facts import facts as facts_of
from kept.ir.serialise import from_json, to_json
from kept.ir.slots import slots
from kept.ir.spec import OPERATIONS, Attention, FeedForward, LatentAttention, Mixer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kept.families.config import Config
    from kept.ir.facts import Facts
    from kept.ir.spec import Spec
    from kept.ir.spec.layer import BranchName
    from kept.ir.tensors import Lazy

AUTO_MAP = {"AutoConfig": "configuration_kept.KeptConfig", "AutoModelForCausalLM": "modeling_kept.KeptForCausalLM"}
"""The classes that transformers imports from the output's own files."""


@dataclass(frozen=True)
class WholeSpec:
    """The spec as JSON under `spec`, and the keys that other libraries look up in any config."""

    def read(self, config: Config, facts: Facts) -> Facts:  # noqa: ARG002 - the first item
        """Return all facts. Raises CheckpointError for a field that is wrong, and for a key that disagrees with it."""
        try:
            spec = from_json(config.get("spec"))
        except CheckpointError as error:
            raise CheckpointError(f"{config.where}: {error}") from None
        for key, value in _repeated(spec).items():
            found = config.get(key)
            if found is not None and (type(found) is not type(value) or found != value):
                raise config.wrong(key, f"{value}, as the spec says")
        for wrong in _impossible(spec):
            raise CheckpointError(f"{config.where}: spec: {wrong}")
        return facts_of(spec)

    def write(self, facts: Facts) -> dict[str, Any]:
        """Return the keys."""
        spec = build_spec(facts)
        return {**_repeated(spec), "spec": to_json(spec)}


def _repeated(spec: Spec) -> dict[str, Any]:
    """Return the keys that repeat a part of the spec."""
    return {
        "vocab_size": spec.vocabulary,
        "hidden_size": spec.width,
        "num_hidden_layers": spec.depth,
        "max_position_embeddings": spec.context,
        "tie_word_embeddings": spec.head.tied,
    }


def _impossible(spec: Spec) -> Iterator[str]:
    """Yield what no model can have: sizes below 1, heads that do not share evenly, rotations wider than a head."""
    for path, value in facts_of(spec).items():
        for one in value.values if isinstance(value, PerLayer) else (value,):
            if type(one) in (int, float) and not abs(one) <= LARGEST and not path.startswith("tokens."):
                yield f"{path} is {one}, it must be between -{LARGEST} and {LARGEST}"
    for name, slot in slots(spec).items():
        if min(slot.shape) < 1:
            yield f"{name} would have shape {list(slot.shape)}"
    for at, attention in spec.operations(Attention):
        yield from _unfit(at, attention, attention.head_dim)
    for at, latent in spec.operations(LatentAttention):
        yield from _unfit(at, latent, latent.rope_dim)


def _unfit(at: str, mixer: Attention | LatentAttention, turned: int) -> Iterator[str]:
    """Yield what is wrong with the heads of a mixer; `turned` elements of each may be rotated."""
    if mixer.kv_heads < 1 or mixer.heads % mixer.kv_heads:
        yield f"{at}kv_heads is {mixer.kv_heads}, it must be a divisor of the {mixer.heads} query heads"
    for rope in mixer.ropes:
        if not 0 < rope.dims <= turned or rope.dims % 2:
            yield f"{at}rope.dims is {rope.dims}, it must be even, and at most {turned}"


@dataclass(frozen=True)
class CarriedCode:
    """The key that names the classes in the output's own files."""

    def read(self, config: Config, facts: Facts) -> Facts:  # noqa: ARG002 - the same for all models
        """Return no facts. Raises CheckpointError for classes in other places: kept cannot say what they compute."""
        named = config.section("auto_map").keys
        wrong = next((key for key, place in named.items() if AUTO_MAP.get(key) != place), None)
        if wrong is not None:
            raise config.wrong_value(f"auto_map.{wrong}", named[wrong], f"{AUTO_MAP.get(wrong, 'absent')}")
        return {}

    def write(self, facts: Facts) -> dict[str, Any]:  # noqa: ARG002 - the same for all models
        """Return the key."""
        return {"auto_map": AUTO_MAP}


class OwnNames(TensorTable):
    """Tensors under the names of their slots."""

    def kinds(self, branch: BranchName) -> tuple[str, ...]:
        """Return every kind of operation of a branch."""
        base = Mixer if branch == "mixer" else FeedForward
        return tuple(kind for kind, operation in OPERATIONS.items() if issubclass(operation, base))

    def name_of(self, slot: str) -> str:
        """Return the slot's name."""
        return slot

    def with_prefix(self, tensors: Mapping[str, Lazy]) -> Mapping[str, Lazy]:
        """Return the tensors: names have no prefix."""
        return tensors

    def stored_slot(self, slot: str, spec: Spec) -> StoredSlot:  # noqa: ARG002 - the same for every spec
        """Return the slot stored as it is, under its name."""
        return StoredSlot(Entry(slot, slot), slot, None)


class OwnFamily(Family):
    """A family whose tensors have the names of their slots, so that it needs no entries."""

    @property
    def tensors(self) -> TensorTable:
        """The map between stored tensors and slots: names are equal."""
        return OwnNames(self.name, (), ())


KEPT = OwnFamily(
    name="kept",
    architecture="KeptForCausalLM",
    items=(WholeSpec(), SpecialTokens(), CarriedCode()),
    entries=(),
    optional=frozenset({"mixer", "mlp"}),
    carries_code=True,
)
