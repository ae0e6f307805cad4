"""Express a plain MLP as a gated MLP."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.spec import Mlp
from kept.ir.tensors import Full, zeros
from kept.passes.base import UNNEEDED, Obstacle, Pass
from kept.passes.map_spec import map_operations

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.ir.tensors import Lazy


@dataclass(frozen=True)
class PlainToGated(Pass):
    """`down(act(W x + b))` is `down(act(W x + b) * (0 x + 1))`: the old up becomes the gate, the new up is constant.

    EXACT; adds one zero matrix for each layer.
    """

    name: ClassVar[str] = "plain-to-gated"
    summary: ClassVar[str] = "plain MLPs become gated MLPs whose second factor is 1"

    def requires(self, program: Program) -> Obstacle | None:
        """Require a plain MLP."""
        if not self.ensures(program.spec):
            return None
        return Obstacle("layers", "have gated MLPs", way_out=UNNEEDED)

    def run(self, program: Program) -> Program:
        """Rename up to gate; the new up is zero with bias one."""
        changed: dict[str, Lazy] = {}
        for at, mlp in program.spec.operations(Mlp):
            if mlp.gated:
                continue
            up = program.weights[f"{at}up.weight"]
            changed[f"{at}gate.weight"] = up
            changed[f"{at}up.weight"] = zeros(up.shape, up.dtype)
            changed[f"{at}up.bias"] = Full(up.shape[:1], up.dtype, 1.0)
            if mlp.up_bias:
                changed[f"{at}gate.bias"] = program.weights[f"{at}up.bias"]
        return program.updated(map_operations(program.spec, Mlp, _gated), changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether every MLP is gated."""
        return all(mlp.gated for _, mlp in spec.operations(Mlp))


def _gated(mlp: Mlp) -> Mlp:
    return mlp if mlp.gated else replace(mlp, gated=True, gate_bias=mlp.up_bias, up_bias=True, fused=False)
