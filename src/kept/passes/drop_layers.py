"""Leave out layers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Self

from kept.errors import RecipeError
from kept.ir.promise import Promise
from kept.ir.slots import layer_slots, zero_output_weights
from kept.passes.base import NO_OPTION, Obstacle, Pass
from kept.passes.expand_blocks import listed

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class DropLayers(Pass):
    """Drop `layers` and renumber the others: the inverse of `expand-blocks`.

    EXACT if the output of every dropped layer is zero, else LOSSY. `zero_output` are the layers that were found to have
    a zero output. Raises RecipeError for layer numbers that no model can have.
    """

    layers: tuple[int, ...]
    zero_output: tuple[int, ...] = field(default=(), metadata=NO_OPTION)

    name: ClassVar[str] = "drop-layers"
    summary: ClassVar[str] = "layers are removed"

    def __post_init__(self) -> None:
        """Check everything that does not depend on the model."""
        if not self.layers:
            raise RecipeError("is empty; give the numbers of the layers to drop", "layers")
        if [*self.layers] != sorted({*self.layers}) or self.layers[0] < 0:
            raise RecipeError(
                f"is {listed(self.layers)}; it must be layer numbers from 0 up, each once, in order", "layers"
            )

    def measured(self, program: Program) -> Self:
        """Return the pass with `zero_output` set. Reads weights up to the first value that is not 0."""
        there = [layer for layer in self.layers if layer < program.spec.depth]
        return replace(self, zero_output=tuple(layer for layer in there if has_zero_output(program, layer)))

    def promise(self, program: Program) -> Promise:  # noqa: ARG002 - it was measured
        """Return EXACT if every dropped layer is known to have a zero output."""
        return Promise.EXACT if {*self.layers} <= {*self.zero_output} else Promise.LOSSY

    def origins(self, program: Program) -> tuple[int | None, ...]:
        """Return the numbers of the layers that stay."""
        return tuple(number for number in range(program.spec.depth) if number not in self.layers)

    def requires(self, program: Program) -> Obstacle | None:
        """Require that the layers exist and that one stays."""
        last = program.spec.depth - 1
        if self.layers[-1] > last:
            return Obstacle("layers", f"is {self.layers[-1]}, the model has layers 0 to {last}", way_out="give others")
        if len(self.layers) > last:
            return Obstacle("layers", f"are all {last + 1}", way_out="leave one")
        return None

    def run(self, program: Program) -> Program:
        """Renumber the layers that stay."""
        spec = program.spec
        stay = [number for number in range(spec.depth) if number not in self.layers]
        moved = {
            f"layers.{number}.{name}": program.weights[f"layers.{old}.{name}"]
            for number, old in enumerate(stay)
            for name, _ in layer_slots(spec.layers[old], spec.width)
        }
        return program.updated(replace(spec, layers=tuple(spec.layers[old] for old in stay)), moved)

    def ensures(self, spec: Spec) -> bool:
        """Return whether a layer is left."""
        return spec.depth > 0


def has_zero_output(program: Program, layer: int) -> bool:
    """Return whether a layer adds zero to every residual stream (`zero_output_weights`). Reads weights."""
    fills = zero_output_weights(program.spec.layers[layer], program.spec.width)
    return all(program.weights[f"layers.{layer}.{name}"].holds_only(value) for name, value in fills.items())
