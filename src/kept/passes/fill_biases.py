"""Add zero biases, for targets whose config has one switch for several biases."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.slots import slots
from kept.ir.spec import OPERATIONS, Attention, Mlp
from kept.ir.tensors import zeros
from kept.passes.base import Obstacle, Pass
from kept.passes.map_spec import map_operations
from kept.passes.plain_to_gated import PlainToGated
from kept.passes.split_projections import SplitProjections

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec

BIAS = "_bias"
"""End of the name of a field that says whether a projection has a bias."""


def projections() -> tuple[str, ...]:
    """Return the projections that can have a bias, with the kind of their operation: `attention.o`, `dense.down`."""
    named = ((kind, field.name) for kind, part in OPERATIONS.items() for field in fields(part))  # type: ignore[arg-type]
    return tuple(f"{kind}.{name.removesuffix(BIAS)}" for kind, name in named if name.endswith(BIAS))


@dataclass(frozen=True)
class FillBiases(Pass):
    """Projections named in `biases` get a zero bias in every layer. EXACT.

    A name has the kind of operation and the projection: `attention.o`, `dense.down`.
    """

    biases: tuple[str, ...]

    name: ClassVar[str] = "fill-biases"
    summary: ClassVar[str] = "projections without a bias get a bias of zero"

    def requires(self, program: Program) -> Obstacle | None:
        """Require names of existing projections, split ones: a part of a fused bias cannot be added."""
        known = projections()
        unknown = next((name for name in self.biases if name not in known), None)
        if unknown is not None:
            return Obstacle("biases", f"{unknown!r} is not a projection", way_out=f"name some of {', '.join(known)}")
        for at, attention in program.spec.operations(Attention):
            if attention.fused and {"attention.q", "attention.k", "attention.v"} & set(self.biases):
                return Obstacle(at[:-1], "has fused projections", SplitProjections())
        for at, mlp in program.spec.operations(Mlp):
            if mlp.fused and {"dense.gate", "dense.up"} & set(self.biases):
                return Obstacle(at[:-1], "has fused projections", SplitProjections())
            if not mlp.gated and "dense.gate" in self.biases:
                return Obstacle(at[:-1], "has no gate", PlainToGated())
        return None

    def run(self, program: Program) -> Program:
        """Add the missing biases as zeros."""
        spec = self._filled(program.spec)
        new = {name: slot for name, slot in slots(spec).items() if name not in program.weights}
        return program.updated(spec, {name: zeros(slot.shape, program.dtype) for name, slot in new.items()})

    def ensures(self, spec: Spec) -> bool:
        """Return whether every layer has the biases."""
        return self._filled(spec) == spec

    def _filled(self, spec: Spec) -> Spec:
        for name in self.biases:
            kind, _, projection = name.partition(".")
            flag = {f"{projection}{BIAS}": True}
            spec = map_operations(spec, OPERATIONS[kind], lambda one, flag=flag: replace(one, **flag))  # type: ignore[misc]
        return spec
