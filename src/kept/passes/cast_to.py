"""Write the weights in another dtype."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from kept.ir.promise import Promise
from kept.ir.tensors import DTYPE_BYTES, TORCH_NAMES, cast
from kept.passes.base import Obstacle, Pass

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec

CONTAINS = {"F64": {"F64", "F32", "F16", "BF16"}, "F32": {"F32", "F16", "BF16"}, "F16": {"F16"}, "BF16": {"BF16"}}
"""For each dtype, the dtypes whose every value it represents."""


@dataclass(frozen=True)
class CastTo(Pass):
    """Round every weight to `dtype` (a safetensors name). EXACT if it represents all values, else APPROXIMATE."""

    dtype: str

    name: ClassVar[str] = "cast"
    summary: ClassVar[str] = "weights are written in another dtype"

    def promise(self, program: Program) -> Promise:
        """Return EXACT if nothing is rounded."""
        fits = all(tensor.dtype in CONTAINS[self.dtype] for tensor in program.weights.values())
        return Promise.EXACT if fits else Promise.APPROXIMATE

    def options(self) -> dict[str, Any]:
        """Return the dtype by the name that users write."""
        return {"dtype": TORCH_NAMES[self.dtype]}

    def requires(self, program: Program) -> Obstacle | None:  # noqa: ARG002 - any program can be cast
        """Require a dtype that weights can have."""
        if self.dtype in DTYPE_BYTES:
            return None
        return Obstacle("dtype", f"{self.dtype} is not one of {', '.join(DTYPE_BYTES)}", way_out="choose one of these")

    def run(self, program: Program) -> Program:
        """Cast every weight."""
        return program.updated(program.spec, {name: cast(t, self.dtype) for name, t in program.weights.items()})

    def ensures(self, spec: Spec) -> bool:  # noqa: ARG002 - the spec says nothing of dtypes
        """Return True: dtypes are not part of the spec."""
        return True
