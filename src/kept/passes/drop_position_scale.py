"""Remove a factor on queries that grows with their position, within the positions where it is 1."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.spec import Attention
from kept.passes.base import LengthLimit, Obstacle, Pass
from kept.passes.map_spec import map_operations

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class DropPositionScale(Pass):
    """Remove the factor 1 + beta ln(1 + floor(p / length)) on the query at position p. EXACT within the context.

    The context must be at most `length`: the factor is then 1 at every position.
    """

    name: ClassVar[str] = "drop-position-scale"
    summary: ClassVar[str] = "a factor on queries that grows with their position is removed where it is 1"

    def domain(self, program: Program) -> LengthLimit | None:
        """Return the shortest length after which a factor grows."""
        lengths = [one.position_scale.length for _, one in program.spec.operations(Attention) if one.position_scale]
        return LengthLimit(min(lengths), "queries are scaled beyond it") if lengths else None

    def requires(self, program: Program) -> Obstacle | None:
        """Require that no factor grows within the context."""
        context = program.spec.context
        for at, attention in program.spec.operations(Attention):
            scale = attention.position_scale
            if scale is not None and scale.length < context:
                why = f"queries are scaled from position {scale.length} on: the context has {context} positions"
                return Obstacle(at[:-1], why, way_out=f"shorten the context (--context {scale.length})")
        return None

    def run(self, program: Program) -> Program:
        """Drop every such factor."""
        spec = map_operations(program.spec, Attention, lambda attention: replace(attention, position_scale=None))
        return program.updated(spec, {})

    def ensures(self, spec: Spec) -> bool:
        """Return whether no such factor is left."""
        return all(attention.position_scale is None for _, attention in spec.operations(Attention))
