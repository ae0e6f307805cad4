"""Add zero biases, for targets whose config has one switch for several biases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.slots import slots
from kept.ir.spec import Attention, Mlp
from kept.ir.tensors import zeros
from kept.passes.base import Obstacle, Pass
from kept.passes.map_spec import map_operations
from kept.passes.plain_to_gated import PlainToGated
from kept.passes.split_projections import SplitProjections

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec

PROJECTIONS = ("mixer.q", "mixer.k", "mixer.v", "mixer.o", "mlp.gate", "mlp.up", "mlp.down")


@dataclass(frozen=True)
class FillBiases(Pass):
    """Projections named in `biases` (`mixer.o`, `mlp.down`, ...) get a zero bias in every layer. EXACT."""

    biases: tuple[str, ...]

    name: ClassVar[str] = "fill-biases"
    summary: ClassVar[str] = "projections without a bias get a bias of zero"

    def requires(self, program: Program) -> Obstacle | None:
        """Require names of existing projections, split ones: a part of a fused bias cannot be added."""
        unknown = next((name for name in self.biases if name not in PROJECTIONS), None)
        if unknown is not None:
            return Obstacle(
                "biases", f"{unknown!r} is not a projection", way_out=f"name some of {', '.join(PROJECTIONS)}"
            )
        for at, attention in program.spec.operations(Attention):
            if attention.fused and {"mixer.q", "mixer.k", "mixer.v"} & set(self.biases):
                return Obstacle(at[:-1], "has fused projections", SplitProjections())
        for at, mlp in program.spec.operations(Mlp):
            if mlp.fused and {"mlp.gate", "mlp.up"} & set(self.biases):
                return Obstacle(at[:-1], "has fused projections", SplitProjections())
            if not mlp.gated and "mlp.gate" in self.biases:
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
        mixer, mlp = (self._flags(branch) for branch in ("mixer.", "mlp."))
        spec = map_operations(spec, Attention, lambda one: replace(one, **mixer))  # type: ignore[arg-type] # its flags
        return map_operations(spec, Mlp, lambda one: replace(one, **mlp))  # type: ignore[arg-type] # the same

    def _flags(self, branch: str) -> dict[str, bool]:
        return {f"{name.removeprefix(branch)}_bias": True for name in self.biases if name.startswith(branch)}
