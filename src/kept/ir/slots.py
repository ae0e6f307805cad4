"""From a spec to every weight it has, and to the readers and writers of the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.ir.spec.slot import Slot, Slots, Space, norm_slots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.spec import Layer, Norm, Spec


def slots(spec: Spec) -> Slots:
    """Return every weight of the spec by name, in the order in which the model uses them."""
    return dict(_all(spec))


def _all(spec: Spec) -> Iterator[tuple[str, Slot]]:
    yield "embedding.weight", Slot((spec.vocabulary, spec.width), (Space.VOCABULARY, Space.RESIDUAL), "matrix")
    if spec.positions is not None:
        yield "positions.weight", Slot((spec.positions, spec.width), (Space.POSITIONS, Space.RESIDUAL), "matrix")
    for i, layer in enumerate(spec.layers):
        for name, slot in layer_slots(layer, spec.width):
            yield f"layers.{i}.{name}", slot
    yield from norm_slots("final_norm", spec.final_norm, (spec.width,), Space.RESIDUAL)
    if not spec.head.tied:
        yield "head.weight", Slot((spec.vocabulary, spec.width), (Space.VOCABULARY, Space.RESIDUAL), "matrix")
    if spec.head.bias:
        yield "head.bias", Slot((spec.vocabulary,), (Space.VOCABULARY,), "bias")


def layer_slots(layer: Layer, width: int) -> Iterator[tuple[str, Slot]]:
    """Yield the weights of one layer, named within it."""
    for branch in layer.branches:
        yield from branch.slots(width)


def norms(spec: Spec) -> Iterator[tuple[str, Norm, tuple[int, ...]]]:
    """Yield every norm, those inside operations too: its name, itself, and its gain's shape."""
    width = (spec.width,)
    seen: set[str] = set()
    for at, branch in spec.branches():
        if at + branch.norm_name not in seen:
            yield at + branch.norm_name, branch.norm, width
        seen.add(at + branch.norm_name)
        if branch.post_norm is not None:
            yield at + branch.post_norm_name, branch.post_norm, width
        for name, norm, shape in branch.op.norms():
            yield f"{at}{branch.name}.{name}", norm, shape
    yield "final_norm", spec.final_norm, width


@dataclass(frozen=True)
class NormReaders:
    """A norm of the residual stream and the projections that read its output."""

    norm: str
    value: Norm
    projections: tuple[str, ...]


def readings(spec: Spec) -> Iterator[NormReaders]:
    """Yield every norm that reads the residual stream, with the projections behind it."""
    found: dict[str, NormReaders] = {}
    for at, branch in spec.branches():
        name = at + branch.norm_name
        before = found[name].projections if name in found else ()
        found[name] = NormReaders(name, branch.norm, (*before, *(at + reader for reader in branch.readers)))
    yield from found.values()
    yield NormReaders("final_norm", spec.final_norm, ("head",))


def writers(spec: Spec) -> Iterator[tuple[str, int]]:
    """Yield every matrix and bias that writes to the residual stream, with the axis along which it does.

    A branch with a post-norm writes through it; passes that change writers require specs without post-norms.
    """
    yield "embedding.weight", 1
    if spec.positions is not None:
        yield "positions.weight", 1
    for i, layer in enumerate(spec.layers):
        for name in layer_writers(layer, spec.width):
            yield f"layers.{i}.{name}", 0


def layer_writers(layer: Layer, width: int) -> Iterator[str]:
    """Yield the weights and biases of the projections of a layer that write to the residual stream."""
    for branch in layer.branches:
        names = {f"{writer}.{part}" for writer in branch.writers for part in ("weight", "bias")}
        yield from (name for name, _ in branch.slots(width) if name in names)


def zero_output_weights(layer: Layer, width: int) -> dict[str, float]:
    """Return the weights that give a layer a zero output if all their elements have the value beside them.

    These are the gain and bias of a branch's post-norm or, without a gain there, the branch's output projections.
    """
    out: dict[str, float] = {}
    for branch in layer.branches:
        norm = branch.post_norm
        if norm is not None and norm.gain:
            out[f"{branch.post_norm_name}.gain"] = -norm.offset
        else:
            own = tuple(f"{branch.name}.{writer}." for writer in branch.op.writers)
            out |= {name: 0.0 for name in layer_writers(layer, width) if name.startswith(own)}
        if norm is not None and norm.bias:
            out[f"{branch.post_norm_name}.bias"] = 0.0
    return out
