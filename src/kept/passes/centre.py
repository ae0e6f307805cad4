"""Centre what writes the residual stream, so that the stream has zero mean at every layer."""

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

SEES = {"rms": "is an RMSNorm, which sees the mean", "none": "is no norm, so that the mean is seen"}
"""Why a reader that is no LayerNorm stands in the way."""


@dataclass(frozen=True)
class Centre(Pass):
    """Every writer W of the stream becomes M W with M = I - 11'/d (arXiv 2305.14858).

    LayerNorm subtracts the mean before it does anything else, so a stream less its mean reads the same: EXACT where
    every reader is a LayerNorm, and wrong for any other norm, which is refused.
    """

    name: ClassVar[str] = "centre"
    summary: ClassVar[str] = "writers of the residual stream lose their mean, which LayerNorm ignores"

    def requires(self, program: Program) -> Obstacle | None:
        """An untied head, and LayerNorm at every reader."""
        spec = program.spec
        if spec.head.tied:
            return Obstacle("head", "is tied to the embedding and would be centred with it", UntieHead())
        post = next((at for at, branch in spec.branches() if branch.post_norm is not None), None)
        if post is not None:
            return Obstacle(post[:-1], "has norms behind its parts", way_out="their outputs cannot be centred")
        other = next((r for r in readings(spec) if r.value.kind != "layer"), None)
        if other is not None and not spec.centred:
            return Obstacle(other.norm, SEES[other.value.kind], way_out="centring keeps only LayerNorm models")
        return None

    def stream(self, program: Program) -> StreamMap:  # noqa: ARG002 - holds for any program
        """Return the map that subtracts the mean."""
        return StreamMap(centred=True)

    def run(self, program: Program) -> Program:
        """Subtract the mean along the residual axis of every writer."""
        changed = {name: centred(program.weights[name], axis) for name, axis in writers(program.spec)}
        return program.updated(replace(program.spec, centred=True), changed)

    def ensures(self, spec: Spec) -> bool:
        """The stream is centred."""
        return spec.centred
