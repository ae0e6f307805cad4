"""Give the MLP of a parallel block a norm of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.passes.base import UNNEEDED, Obstacle, Pass
from kept.passes.map_spec import map_layers

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Layer, Spec


@dataclass(frozen=True)
class SeparateNorms(Pass):
    """Attention and MLP that share one norm (Phi, Cohere, Falcon) get a copy each. EXACT."""

    name: ClassVar[str] = "separate-norms"
    summary: ClassVar[str] = "attention and MLP that share a norm get a copy each"

    def requires(self, program: Program) -> Obstacle | None:
        """Require a shared norm."""
        if self.ensures(program.spec):
            return Obstacle("layers", "share no norms", way_out=UNNEEDED)
        return None

    def run(self, program: Program) -> Program:
        """Copy the mixer's norm."""
        shared = [f"layers.{i}." for i, layer in enumerate(program.spec.layers) if layer.shared_norm]
        copies = {
            f"{at}mlp_norm.{part}": program.weights[f"{at}mixer_norm.{part}"]
            for at in shared
            for part in ("gain", "bias")
            if f"{at}mixer_norm.{part}" in program.weights
        }
        return program.updated(map_layers(program.spec, _separate), copies)

    def ensures(self, spec: Spec) -> bool:
        """Return whether every MLP has a norm of its own."""
        return not any(layer.shared_norm for layer in spec.layers)


def _separate(layer: Layer) -> Layer:
    return replace(layer, mlp_norm=layer.mixer_norm, shared_norm=False) if layer.shared_norm else layer
