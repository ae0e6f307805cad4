"""Put other operations into branches of layers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from typing import TYPE_CHECKING, Any, ClassVar

from kept.errors import RecipeError
from kept.ir.promise import Promise
from kept.ir.serialise import part_to_json
from kept.ir.slots import layer_slots
from kept.ir.spec import FeedForward, Mixer
from kept.ir.tensors import torch_dtype, working_precision
from kept.passes.base import NO_OPTION, PATH, Obstacle, Pass
from kept.passes.separate_norms import SeparateNorms

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import torch

    from kept.ir.program import Program
    from kept.ir.spec import Layer, Norm, Operation, Slot, Spec
    from kept.ir.spec.layer import BranchName
    from kept.ir.tensors import Lazy


@dataclass(frozen=True)
class BranchChoice:
    """The new content of one branch of one layer.

    `op` None leaves the branch out, with its norms. `norm` replaces the norm before the operation; None keeps the one
    that is there. A norm behind the operation stays. `weights` and `reused` have values by their names within the layer
    (`mixer.q.weight`, `mlp_norm.gain`): `weights` are newly initialised, `reused` are functions of the program's own
    weights. Weights that are not given stay. `proved`: the layer computes the same function as before, which the caller
    has proved.
    """

    layer: int
    branch: BranchName
    op: Operation | None
    norm: Norm | None = None
    weights: Mapping[str, Lazy] = field(default_factory=dict)
    reused: Mapping[str, Lazy] = field(default_factory=dict)
    proved: bool = False

    @property
    def where(self) -> str:
        """The branch in messages: `layers.3.mlp`."""
        return f"layers.{self.layer}.{self.branch}"

    @property
    def given(self) -> dict[str, Lazy]:
        """All given values, by their names within the layer."""
        return {**self.reused, **self.weights}

    @cached_property
    def digest(self) -> str:
        """The sha256 of the given values with their names, dtypes and shapes. Reads them."""
        found = sha256()
        for name, tensor in sorted(self.given.items()):
            found.update(f"{name} {tensor.dtype} {[*tensor.shape]}\n".encode())
            for block in tensor.blocks(working_precision(tensor.dtype)):
                found.update(_bytes(block, tensor.dtype))
        return found.hexdigest()

    def record(self) -> dict[str, Any]:
        """Return the choice as `kept.json` states it: without values, with their digest."""
        stated = {"op": self.op, "norm": self.norm}
        parts = {name: None if part is None else part_to_json(part) for name, part in stated.items()}
        names = {"new": sorted(self.weights), "reused": sorted(self.reused)}
        return {**parts, **names, "proved": self.proved, "sha256": self.digest}

    def applied(self, layer: Layer) -> Layer:
        """Return the layer with the branch replaced."""
        if self.op is None:
            gone = {self.branch: None, f"{self.branch}_norm": None, f"{self.branch}_post_norm": None}
            return replace(layer, **gone)  # type: ignore[arg-type] # fields of the branch
        new = {self.branch: self.op, **({} if self.norm is None else {f"{self.branch}_norm": self.norm})}
        return replace(layer, **new)  # type: ignore[arg-type] # fields of the branch

    def keeps(self, layer: Layer) -> bool:
        """Return whether the layer stays as it is, to the bit."""
        return not self.given and self._present(layer) == (self.op is not None) and self.applied(layer) == layer

    def obstacle(self, layer: Layer) -> Obstacle | None:
        """Return why the branch does not fit into the layer; None if it does."""
        kind = Mixer if self.branch == "mixer" else FeedForward
        if self.op is not None and not isinstance(self.op, kind):
            return Obstacle(self.where, f"{self.op.KIND} is no {self.branch}", way_out="name the other branch")
        twice = next(iter(self.weights.keys() & self.reused.keys()), None)
        if twice is not None:
            return Obstacle(f"layers.{self.layer}.{twice}", "is given as new and as reused", way_out="give it once")
        if layer.shared_norm and (self.op is None or self.norm is not None):
            return Obstacle(self.where, "shares its norm with the other branch", SeparateNorms())
        if self.op is not None and self.norm is None and not self._present(layer):
            return Obstacle(self.where, "is absent and has no norm", way_out="give the branch a norm")
        return None

    def is_other_kind(self, layer: Layer) -> bool:
        """Return whether the layer's operation is of another kind, or absent."""
        return not any(branch.name == self.branch and type(branch.op) is type(self.op) for branch in layer.branches)

    def _present(self, layer: Layer) -> bool:
        return any(branch.name == self.branch for branch in layer.branches)


@dataclass(frozen=True)
class ReplaceBranches(Pass):
    """Every choice's operation takes the place of the operation in its layer and branch.

    LOSSY unless every choice is `proved` or changes nothing. A replacement of another kind needs all of its weights.
    A recipe names a `file` with the choices (`kept.branch_file`). Raises RecipeError if there are none.
    """

    choices: tuple[BranchChoice, ...] = field(default=(), metadata=NO_OPTION)
    file: str | None = field(default=None, metadata=PATH)

    name: ClassVar[str] = "replace-branches"
    summary: ClassVar[str] = "branches of layers are replaced by given ones"

    def __post_init__(self) -> None:
        """Check that something is replaced."""
        if not self.choices and self.file is None:
            raise RecipeError("is missing; name a file of replaced branches", "file")

    def promise(self, program: Program) -> Promise:
        """Return EXACT if every choice is proved or changes nothing."""
        layers = program.spec.layers
        exact = all(choice.proved or choice.keeps(layers[choice.layer]) for choice in self.choices)
        return Promise.EXACT if exact else Promise.LOSSY

    def rewritten(self, program: Program) -> frozenset[str]:
        """Return the newly initialised weights whose names the program has."""
        return frozenset(f"layers.{c.layer}.{name}" for c in self.choices for name in c.weights) & {*program.weights}

    def reused(self, program: Program) -> frozenset[str]:
        """Return the reused weights whose names the program does not have."""
        return frozenset(f"layers.{c.layer}.{name}" for c in self.choices for name in c.reused) - {*program.weights}

    def record(self) -> dict[str, Any]:
        """Return the operation of each branch, the names of its given weights, and their digest."""
        return {**super().record(), "branches": {choice.where: choice.record() for choice in self.choices}}

    def requires(self, program: Program) -> Obstacle | None:
        """Require different branches that exist, fit their layers, and have exactly the weights of their slots."""
        places = [(choice.layer, choice.branch) for choice in self.choices]
        if len({*places}) < len(places):
            return Obstacle("choices", "name a branch twice", way_out="give one choice for each branch")
        last = program.spec.depth - 1
        for choice in self.choices:
            if not 0 <= choice.layer <= last:
                return Obstacle(choice.where, f"the model has layers 0 to {last}", way_out="give another layer")
            obstacle = choice.obstacle(program.spec.layers[choice.layer])
            if obstacle is not None:
                return obstacle
        return self._weights_obstacle(program)

    def run(self, program: Program) -> Program:
        """Change the layers, and take the given weights."""
        return program.updated(self._replaced(program.spec), self._given())

    def ensures(self, spec: Spec) -> bool:
        """Return whether every choice is in place."""
        return self._replaced(spec) == spec

    def _given(self) -> dict[str, Lazy]:
        return {f"layers.{c.layer}.{name}": tensor for c in self.choices for name, tensor in c.given.items()}

    def _replaced(self, spec: Spec) -> Spec:
        layers = [*spec.layers]
        for choice in self.choices:
            layers[choice.layer] = choice.applied(layers[choice.layer])
        centred = spec.centred and all(choice.op is None or not choice.given for choice in self.choices)
        return replace(spec, layers=tuple(layers), centred=centred)

    def _weights_obstacle(self, program: Program) -> Obstacle | None:
        wanted, given = dict(self._slots(program.spec)), self._given()
        unknown = next((name for name in given if name not in wanted), None)
        if unknown is not None:
            return Obstacle(unknown, "is not a weight of the replaced branch", way_out="leave it out")
        others = tuple(f"{c.where}." for c in self.choices if c.is_other_kind(program.spec.layers[c.layer]))
        for name, slot in wanted.items():
            had = None if name.startswith(others) else program.weights.get(name)
            tensor = given.get(name, had)
            if tensor is None:
                return Obstacle(name, "is missing", way_out=f"give a tensor of shape {[*slot.shape]}")
            if tensor.shape != slot.shape:
                why = f"has shape {[*tensor.shape]}, the replaced branch needs {[*slot.shape]}"
                return Obstacle(name, why, way_out="give a tensor of that shape")
        return None

    def _slots(self, before: Spec) -> Iterator[tuple[str, Slot]]:
        spec = self._replaced(before)
        for choice in self.choices:
            own = (f"{choice.branch}.", f"{choice.branch}_norm.", f"{choice.branch}_post_norm.")
            for name, slot in layer_slots(spec.layers[choice.layer], spec.width):
                if name.startswith(own):
                    yield f"layers.{choice.layer}.{name}", slot


def _bytes(block: torch.Tensor, dtype: str) -> bytes:
    """Return the bytes of values, rounded to a dtype."""
    import torch  # noqa: PLC0415 - planning needs no torch

    return block.to(torch_dtype(dtype)).reshape(-1).view(torch.uint8).numpy().tobytes()
