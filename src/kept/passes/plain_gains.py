"""Give every norm a plain gain: no offset, and a gain of ones if there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.slots import norms
from kept.ir.tensors import Full
from kept.passes.algebra import scaled_gain
from kept.passes.base import UNNEEDED, Obstacle, Pass
from kept.passes.map_spec import map_norms

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Norm, Spec
    from kept.ir.tensors import Lazy


@dataclass(frozen=True)
class PlainGains(Pass):
    """`offset + w` becomes one gain; a norm without a gain gets ones. EXACT; adds at most one vector for each norm."""

    name: ClassVar[str] = "plain-gains"
    summary: ClassVar[str] = "norms with an offset or without a gain get a plain gain"

    def requires(self, program: Program) -> Obstacle | None:
        """Require a norm with an offset or without a gain."""
        if any(_affected(norm) for _, norm, _ in norms(program.spec)):
            return None
        return Obstacle("norms", "have plain gains", way_out=UNNEEDED)

    def run(self, program: Program) -> Program:
        """Add the offset, or make a gain of ones."""
        changed: dict[str, Lazy] = {}
        for name, norm, shape in norms(program.spec):
            if _affected(norm) and norm.gain:
                changed[f"{name}.gain"] = scaled_gain(program.weights[f"{name}.gain"], 1.0, norm.offset, plain=True)
            elif _affected(norm):
                changed[f"{name}.gain"] = Full(shape, program.dtype, 1.0)
        return program.updated(map_norms(program.spec, _plain), changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether every norm has a plain gain."""
        return not any(_affected(norm) for _, norm, _ in norms(spec))


def _affected(norm: Norm) -> bool:
    return norm.kind != "none" and (norm.offset != 0 or not norm.gain)


def _plain(norm: Norm) -> Norm:
    return replace(norm, gain=True, offset=0.0) if _affected(norm) else norm
