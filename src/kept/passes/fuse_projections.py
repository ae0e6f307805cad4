"""Fuse separate projections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.tensors import Lazy, join
from kept.passes.base import Obstacle, Pass
from kept.passes.fill_biases import FillBiases
from kept.passes.map_spec import map_mixers

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class FuseProjections(Pass):
    """Query, key and value become one projection, for targets that store them so. EXACT; costs nothing."""

    name: ClassVar[str] = "fuse-projections"
    summary: ClassVar[str] = "query, key and value become one projection"

    def requires(self, program: Program) -> Obstacle | None:
        """Separate projections whose biases are there together or not at all."""
        apart = [(i, layer.mixer) for i, layer in enumerate(program.spec.layers) if not layer.mixer.fused]
        if not apart:
            return Obstacle("layers", "have fused projections", way_out="leave this pass out")
        for i, mixer in apart:
            missing = [f"mixer.{name}" for name in "qkv" if not getattr(mixer, f"{name}_bias")]
            if 0 < len(missing) < 3:
                return Obstacle(f"layers.{i}.mixer", "has some of three biases", FillBiases(tuple(missing)))
        return None

    def run(self, program: Program) -> Program:
        """Join the rows of each part."""
        changed: dict[str, Lazy] = {}
        for i, layer in enumerate(program.spec.layers):
            for kind in ("weight", "bias"):
                parts = [program.weights.get(f"layers.{i}.mixer.{name}.{kind}") for name in "qkv"]
                whole = [part for part in parts if part is not None]
                if whole and not layer.mixer.fused:
                    changed[f"layers.{i}.mixer.qkv.{kind}"] = join(whole)
        return program.updated(map_mixers(program.spec, lambda mixer: replace(mixer, fused=True)), changed)

    def ensures(self, spec: Spec) -> bool:
        """Everything is fused."""
        return all(layer.mixer.fused for layer in spec.layers)
