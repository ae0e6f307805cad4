"""Give a tied head its own matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.passes.base import UNNEEDED, Obstacle, Pass

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class UntieHead(Pass):
    """The head gets a copy of the embedding, so that both can change independently. EXACT; adds a V x D matrix."""

    name: ClassVar[str] = "untie-head"
    summary: ClassVar[str] = "the head gets its own copy of the embedding"

    def requires(self, program: Program) -> Obstacle | None:
        """Require a tied head."""
        return None if program.spec.head.tied else Obstacle("head", "is not tied", way_out=UNNEEDED)

    def run(self, program: Program) -> Program:
        """Copy the embedding."""
        spec = replace(program.spec, head=replace(program.spec.head, tied=False))
        return program.updated(spec, {"head.weight": program.weights["embedding.weight"]})

    def ensures(self, spec: Spec) -> bool:
        """Return whether the head is untied."""
        return not spec.head.tied
