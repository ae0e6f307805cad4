"""Fold the bias of each norm into the projections that read it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.slots import NormReaders, readings
from kept.passes.algebra import times_vector
from kept.passes.base import UNNEEDED, Obstacle, Pass
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.map_spec import map_layers, map_readers

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Layer, Spec
    from kept.ir.tensors import Lazy


@dataclass(frozen=True)
class FoldNormBias(Pass):
    """W (x + b) = W x + W b: W b is added to the bias of every reader W, and the norm's bias b is removed.

    Readers are the projections that read a norm of the residual stream, and the head. EXACT; adds one vector for each
    projection.
    """

    name: ClassVar[str] = "fold-norm-bias"
    summary: ClassVar[str] = "norm biases are folded into the projections that read the norms"

    def requires(self, program: Program) -> Obstacle | None:
        """Require a norm with a bias, readers that can have one, and a head that is not normalised at run time."""
        if not any(reading.value.bias for reading in readings(program.spec)):
            return Obstacle("norms", "have no bias", way_out=UNNEEDED)
        if program.spec.final_norm.bias and program.spec.head.normalised:
            return Obstacle("head", "is normalised when the model runs", FoldHeadNorm())
        for at, branch in program.spec.branches():
            if branch.norm.bias and branch.op.with_reader_biases() is None:
                why = f"is {branch.op.KIND}, whose projections cannot have a bias"
                return Obstacle(at + branch.name, why, way_out="keep the norm's bias, or use --norm carried")
        return None

    def run(self, program: Program) -> Program:
        """Add W b to each reader's bias."""
        changed: dict[str, Lazy] = {}
        for reading in readings(program.spec):
            if reading.value.bias:
                changed.update(_folded(program, reading))
        spec = map_layers(program.spec, _with_biases)
        head = replace(spec.head, bias=spec.head.bias or spec.final_norm.bias)
        return program.updated(map_readers(replace(spec, head=head), lambda norm: replace(norm, bias=False)), changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether no norm has a bias."""
        return not any(reading.value.bias for reading in readings(spec))


def _folded(program: Program, reading: NormReaders) -> dict[str, Lazy]:
    bias = program.weights[f"{reading.norm}.bias"]
    out = {}
    for name in reading.projections:
        tied = name == "head" and program.spec.head.tied
        matrix = program.weights["embedding.weight" if tied else f"{name}.weight"]
        out[f"{name}.bias"] = times_vector(matrix, bias, program.weights.get(f"{name}.bias"))
    return out


def _with_biases(layer: Layer) -> Layer:
    grown = {branch.name: branch.op.with_reader_biases() for branch in layer.branches if branch.norm.bias}
    return replace(layer, **grown)  # type: ignore[arg-type] # a branch's name is its field
