"""A head that is normalised when the model runs, normalised once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.passes.algebra import unit_rows
from kept.passes.base import Obstacle, Pass
from kept.passes.untie_head import UntieHead

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class FoldHeadNorm(Pass):
    """NormHead (arXiv 2309.10305) divides each row of the head by its length: done once and stored. EXACT."""

    name: ClassVar[str] = "fold-head-norm"
    summary: ClassVar[str] = "rows of the head are divided by their length once"

    def requires(self, program: Program) -> Obstacle | None:
        """A normalised head of its own."""
        if not program.spec.head.normalised:
            return Obstacle("head", "is not normalised", way_out="leave this pass out")
        if program.spec.head.tied:
            return Obstacle("head", "is tied to the embedding", UntieHead())
        return None

    def run(self, program: Program) -> Program:
        """Divide the rows."""
        spec = replace(program.spec, head=replace(program.spec.head, normalised=False))
        return program.updated(spec, {"head.weight": unit_rows(program.weights["head.weight"])})

    def ensures(self, spec: Spec) -> bool:
        """The head is plain."""
        return not spec.head.normalised
