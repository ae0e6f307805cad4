"""Dropping layers: those that add nothing go without a trace, others are missed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.errors import RecipeError
from kept.ir.promise import Promise
from kept.ir.slots import layer_slots, silent
from kept.passes.base import Obstacle, Pass
from kept.passes.expand_blocks import listed

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class DropLayers(Pass):
    """Layers are left out, and those behind them move up: the inverse of `expand-blocks`.

    EXACT where each is silent, `x` for every x, which its weights say (`is_silent`); else LOSSY. Raises RecipeError for
    numbers that no depth allows.
    """

    layers: tuple[int, ...]

    name: ClassVar[str] = "drop-layers"
    summary: ClassVar[str] = "layers are left out"

    def __post_init__(self) -> None:
        """Check what needs no model."""
        if not self.layers:
            raise RecipeError("layers: names none; give the numbers of the layers to leave out")
        if [*self.layers] != sorted({*self.layers}) or self.layers[0] < 0:
            raise RecipeError(
                f"layers: is {listed(self.layers)}; it must be layer numbers from 0 up, each once, in order"
            )

    def promise(self, program: Program) -> Promise:
        """EXACT where every layer that goes is silent: of each, what it writes with is read until it is not zero."""
        return Promise.EXACT if all(is_silent(program, layer) for layer in self.layers) else Promise.LOSSY

    def origins(self, program: Program) -> tuple[int | None, ...]:
        """The numbers of the layers that stay."""
        return tuple(number for number in range(program.spec.depth) if number not in self.layers)

    def requires(self, program: Program) -> Obstacle | None:
        """Layers that there are, and one that stays."""
        last = program.spec.depth - 1
        if self.layers[-1] > last:
            return Obstacle("layers", f"is {self.layers[-1]}, the model has layers 0 to {last}", way_out="give others")
        if len(self.layers) > last:
            return Obstacle("layers", f"are all {last + 1}", way_out="leave one")
        return None

    def run(self, program: Program) -> Program:
        """Number the layers that stay anew."""
        spec = program.spec
        stay = [number for number in range(spec.depth) if number not in self.layers]
        moved = {
            f"layers.{number}.{name}": program.weights[f"layers.{old}.{name}"]
            for number, old in enumerate(stay)
            for name, _ in layer_slots(spec.layers[old], spec.width)
        }
        return program.updated(replace(spec, layers=tuple(spec.layers[old] for old in stay)), moved)

    def ensures(self, spec: Spec) -> bool:
        """Something is left."""
        return spec.depth > 0


def is_silent(program: Program, layer: int) -> bool:
    """Whether a layer adds nothing to any stream: all that it writes with is zero (see `kept.ir.slots.silent`)."""
    fills = silent(program.spec.layers[layer], program.spec.width)
    return all(program.weights[f"layers.{layer}.{name}"].holds_only(value) for name, value in fills.items())
