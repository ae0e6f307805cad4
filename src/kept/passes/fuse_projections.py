"""Fuse separate projections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.spec import Attention
from kept.ir.tensors import Lazy, join
from kept.passes.base import UNNEEDED, Obstacle, Pass
from kept.passes.fill_biases import FillBiases
from kept.passes.map_spec import map_operations

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class FuseProjections(Pass):
    """Join query, key and value, for targets that store them as one projection. EXACT; adds no parameters."""

    name: ClassVar[str] = "fuse-projections"
    summary: ClassVar[str] = "query, key and value become one projection"

    def requires(self, program: Program) -> Obstacle | None:
        """Require separate projections with all three biases or none."""
        apart = [(at, one) for at, one in program.spec.operations(Attention) if not one.fused]
        if not apart:
            return Obstacle("layers", "have fused projections", way_out=UNNEEDED)
        for at, mixer in apart:
            missing = [f"attention.{name}" for name in "qkv" if not getattr(mixer, f"{name}_bias")]
            if 0 < len(missing) < 3:
                return Obstacle(at[:-1], "has some of three biases", FillBiases(tuple(missing)))
        return None

    def run(self, program: Program) -> Program:
        """Join the rows of each part."""
        changed: dict[str, Lazy] = {}
        for at, one in program.spec.operations(Attention):
            for kind in ("weight", "bias"):
                parts = [program.weights.get(f"{at}{name}.{kind}") for name in "qkv"]
                whole = [part for part in parts if part is not None]
                if whole and not one.fused:
                    changed[f"{at}qkv.{kind}"] = join(whole)
        return program.updated(map_operations(program.spec, Attention, lambda one: replace(one, fused=True)), changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether every attention is fused."""
        return all(one.fused for _, one in spec.operations(Attention))
