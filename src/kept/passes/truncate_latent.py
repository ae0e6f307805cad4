"""Put truncated latent attention into the layers of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from kept.ir.promise import Promise
from kept.passes.base import NO_OPTION, Obstacle, Pass
from kept.passes.replace_branches import BranchChoice, ReplaceBranches
from kept.passes.to_latent import ToLatent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.ir.program import Program
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class TruncateLatent(Pass):
    """Attention becomes latent attention with a smaller KV cache, of weights made of the source's. LOSSY.

    `choices` are the mixers of all layers with attention, made from calibration text (`kept.compression.latent`).
    `about` is what the record states of how they were made.
    """

    choices: tuple[BranchChoice, ...] = field(metadata=NO_OPTION)
    about: Mapping[str, Any] = field(default_factory=dict, metadata=NO_OPTION)

    name: ClassVar[str] = "truncate-latent"
    summary: ClassVar[str] = "attention becomes latent attention with a smaller KV cache"

    EPS: ClassVar[float] = ToLatent.eps

    @property
    def replacement(self) -> ReplaceBranches:
        """The same as a replacement of branches."""
        return ReplaceBranches(self.choices)

    def promise(self, program: Program) -> Promise:  # noqa: ARG002 - holds for any program
        """Return LOSSY: the change is measured."""
        return Promise.LOSSY

    def requires(self, program: Program) -> Obstacle | None:
        """Require what the exact form requires, and mixers that fit."""
        return ToLatent(self.EPS).requires(program) or self.replacement.requires(program)

    def reused(self, program: Program) -> frozenset[str]:
        """Return all new weights: they are functions of those of attention."""
        return self.replacement.reused(program)

    def run(self, program: Program) -> Program:
        """Replace the mixers."""
        return self.replacement.run(program)

    def ensures(self, spec: Spec) -> bool:
        """Return whether the mixers are in place."""
        return self.replacement.ensures(spec)

    def record(self) -> dict[str, Any]:
        """Return how the layers were made, and the digest of each layer's weights."""
        return {**self.about, "branches": {choice.where: choice.digest for choice in self.choices}}
