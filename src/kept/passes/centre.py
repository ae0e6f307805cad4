"""Centre every writer of the residual stream, so that the stream has zero mean before every layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.slots import readings, writers
from kept.ir.stream_map import StreamMap
from kept.passes.algebra import centred
from kept.passes.base import Obstacle, Pass
from kept.passes.untie_head import UntieHead

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec

DEPENDS = {"rms": "is an RMSNorm, which depends on the mean", "none": "is no norm, so its reader depends on the mean"}
"""Why a reader without LayerNorm is an obstacle."""


@dataclass(frozen=True)
class Centre(Pass):
    """Every writer W of the residual stream becomes M W with M = I - 11'/d (arXiv 2305.14858).

    LayerNorm subtracts the mean first, so its output does not change. EXACT if every reader is a LayerNorm; models with
    other norms are refused.
    """

    name: ClassVar[str] = "centre"
    summary: ClassVar[str] = "the mean, which LayerNorm ignores, is subtracted from every writer of the residual stream"

    def requires(self, program: Program) -> Obstacle | None:
        """Require an untied head, no post-norms, and a LayerNorm at every reader."""
        spec = program.spec
        if spec.head.tied:
            return Obstacle("head", "is tied to the embedding and would be centred with it", UntieHead())
        post = next((at for at, branch in spec.branches() if branch.post_norm is not None), None)
        if post is not None:
            return Obstacle(post[:-1], "has a norm after a branch", way_out="its output cannot be centred")
        other = next((r for r in readings(spec) if r.value.kind != "layer"), None)
        if other is not None and not spec.centred:
            return Obstacle(other.norm, DEPENDS[other.value.kind], way_out="centring keeps only LayerNorm models")
        return None

    def stream(self, program: Program) -> StreamMap:  # noqa: ARG002 - holds for any program
        """Return the map that subtracts the mean."""
        return StreamMap(centred=True)

    def run(self, program: Program) -> Program:
        """Subtract the mean along the residual axis of every writer."""
        changed = {name: centred(program.weights[name], axis) for name, axis in writers(program.spec)}
        return program.updated(replace(program.spec, centred=True), changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether the residual stream is centred."""
        return spec.centred
