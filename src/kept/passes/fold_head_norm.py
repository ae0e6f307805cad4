"""Store the normalised rows of a head that is normalised at run time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.passes.algebra import unit_rows
from kept.passes.base import UNNEEDED, Obstacle, Pass
from kept.passes.untie_head import UntieHead

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class FoldHeadNorm(Pass):
    """Divide each row of the head by its length, as NormHead (arXiv 2309.10305) does at run time. EXACT."""

    name: ClassVar[str] = "fold-head-norm"
    summary: ClassVar[str] = "the head's rows are stored divided by their length"

    def requires(self, program: Program) -> Obstacle | None:
        """Require an untied, normalised head."""
        if not program.spec.head.normalised:
            return Obstacle("head", "is not normalised", way_out=UNNEEDED)
        if program.spec.head.tied:
            return Obstacle("head", "is tied to the embedding", UntieHead())
        return None

    def run(self, program: Program) -> Program:
        """Divide the rows."""
        spec = replace(program.spec, head=replace(program.spec.head, normalised=False))
        return program.updated(spec, {"head.weight": unit_rows(program.weights["head.weight"])})

    def ensures(self, spec: Spec) -> bool:
        """Return whether the head is not normalised at run time."""
        return not spec.head.normalised
