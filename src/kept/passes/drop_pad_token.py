"""Leave out the padding token of the config."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.passes.base import UNNEEDED, Obstacle, Pass

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class DropPadToken(Pass):
    """Leave the id of the padding token out of the config. EXACT: no weight changes.

    It is for classes that set the row of this token in the embedding to zero when they load a model (Youtu). Many
    models pad with their end token, which would lose its embedding, and its logit with a tied head. Tokenizer and
    generation config still name the token.
    """

    name: ClassVar[str] = "drop-pad-token"
    summary: ClassVar[str] = "the config names no padding token, whose row the class would set to zero"

    def requires(self, program: Program) -> Obstacle | None:
        """Require a padding token."""
        return None if program.spec.tokens.pad is not None else Obstacle("tokens.pad", "is not set", way_out=UNNEEDED)

    def run(self, program: Program) -> Program:
        """Leave out the token."""
        return program.updated(replace(program.spec, tokens=replace(program.spec.tokens, pad=None)), {})

    def ensures(self, spec: Spec) -> bool:
        """Return whether there is no padding token."""
        return spec.tokens.pad is None
