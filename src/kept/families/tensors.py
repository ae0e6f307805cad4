"""The tensors of a family: a reversible map between stored tensors and slots, made of entries."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from kept.errors import CheckpointError
from kept.ir.slots import slots
from kept.ir.tensors import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.families.entries import Entry
    from kept.ir.program import Program
    from kept.ir.spec import Layer, Operation, Spec
    from kept.ir.spec.layer import BranchName
    from kept.ir.tensors import Lazy

IN_LAYER = re.compile(r"layers\.(?P<layer>\d+)\.(?P<name>.*)", re.DOTALL)
"""Name of a slot in a layer."""


@dataclass(frozen=True)
class StoredSlot:
    """The entry of a slot, its name with the layer's number, and the operation of its branch, if it is part of one."""

    entry: Entry
    name: str
    operation: Operation | None

    def stored_shapes(self, shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        """Return the shape of each stored tensor by name, for a slot of shape `shape`."""
        return self.entry.layout.stored_shapes(self.name, shape)


@dataclass(frozen=True)
class TensorTable:
    """The stored names and layouts of a family's slots. `ignored` has name patterns of tensors that are no weights."""

    family: str
    entries: tuple[Entry, ...]
    ignored: tuple[str, ...]

    def read(self, spec: Spec, tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:
        """Return the weights of a spec from stored tensors.

        Raises CheckpointError for a missing, misshapen or unexpected tensor, by its stored name.
        """
        weights: dict[str, Lazy] = {}
        used: set[str] = set()
        for slot, info in slots(spec).items():
            stored_slot = self.stored_slot(slot, spec)
            shapes = stored_slot.stored_shapes(info.shape)
            used.update(shapes)
            stored = [_checked(tensors, name, shape) for name, shape in shapes.items()]
            weights[slot] = stored_slot.entry.layout.to_slot(stored, stored_slot.operation)
        self._check_unused(tensors, used)
        return weights

    def write(self, program: Program) -> dict[str, Lazy]:
        """Return the stored tensors of a program by name."""
        out: dict[str, Lazy] = {}
        for slot, tensor in program.weights.items():
            stored_slot = self.stored_slot(slot, program.spec)
            stored = stored_slot.entry.layout.from_slot(tensor, stored_slot.operation)
            out.update(zip(stored_slot.stored_shapes(tensor.shape), stored, strict=True))
        return out

    def slots_by_name(self, spec: Spec) -> dict[str, str]:
        """Return the slot that each stored tensor holds, or holds a part of, by the tensor's name."""
        shapes = {slot: self.stored_slot(slot, spec).stored_shapes(info.shape) for slot, info in slots(spec).items()}
        return {name: slot for slot, names in shapes.items() for name in names}

    def kinds(self, branch: BranchName) -> tuple[str, ...]:
        """Return the kinds of operation that the entries name for a branch, in their order."""
        inside = f"layers.*.{branch}."
        slots_of = (entry.slot.removeprefix(inside) for entry in self.entries if entry.slot.startswith(inside))
        return tuple(dict.fromkeys(slot.partition(".")[0] for slot in slots_of))

    def name_of(self, slot: str) -> str:
        """Return the stored name of a slot outside the layers."""
        return next(entry.name for entry in self.entries if entry.slot == slot)

    def with_prefix(self, tensors: Mapping[str, Lazy]) -> Mapping[str, Lazy]:
        """Return the tensors with full names: those of a base model lack the prefix, such as `model.`."""
        prefix = self.name_of("embedding.weight").partition(".")[0] + "."
        if any(name.startswith(prefix) for name in tensors):
            return tensors
        full = {entry.name for entry in self.entries}
        return {name if name in full else prefix + name: tensor for name, tensor in tensors.items()}

    def stored_slot(self, slot: str, spec: Spec) -> StoredSlot:
        """Return how a slot is stored: by the first entry for it, for the kind of its operation and for its layer."""
        match = IN_LAYER.fullmatch(slot)
        if match is None:
            entry = self._entry(slot, None)
            return StoredSlot(entry, entry.name, None)
        layer = spec.layers[int(match["layer"])]
        path, operation = _path(match["name"], layer)
        entry = self._entry(path, layer)
        return StoredSlot(entry, entry.name.replace("{i}", match["layer"]), operation)

    def _entry(self, path: str, layer: Layer | None) -> Entry:
        named = (entry for entry in self.entries if entry.slot == path)
        entry = next((entry for entry in named if entry.when is None or (layer and entry.when(layer))), None)
        assert entry is not None, f"{self.family} has no tensor for {path}: violations() should have said so"
        return entry

    def _check_unused(self, tensors: Mapping[str, Lazy], used: set[str]) -> None:
        for name in tensors:
            if name not in used and not any(fnmatch(name, pattern) for pattern in self.ignored):
                raise CheckpointError(
                    f"{name}: {self.family} has no place for this tensor; is the config's model_type right?"
                )


def _path(name: str, layer: Layer) -> tuple[str, Operation | None]:
    """Return the path of a slot in a layer, with the kind of its operation, and the operation if it is part of one."""
    branch, _, rest = name.partition(".")
    operation = next((one.op for one in layer.branches if one.name == branch), None)
    if operation is None:
        return f"layers.*.{name}", None
    return f"layers.*.{branch}.{operation.KIND}.{rest}", operation


def _checked(tensors: Mapping[str, Lazy], name: str, shape: tuple[int, ...]) -> Lazy:
    if name not in tensors:
        raise CheckpointError(f"{name}: missing from the checkpoint; the config asks for it with shape {list(shape)}")
    if tensors[name].shape != shape:
        raise CheckpointError(f"{name}: has shape {list(tensors[name].shape)}, the config asks for {list(shape)}")
    if tensors[name].dtype not in DTYPE_BYTES:
        known = ", ".join(DTYPE_BYTES)
        raise CheckpointError(f"{name}: has dtype {tensors[name].dtype}; supported dtypes of weights are {known}")
    return tensors[name]
