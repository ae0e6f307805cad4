"""Split fused projections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.spec import Attention, Mlp
from kept.ir.tensors import Lazy, take_rows
from kept.passes.base import UNNEEDED, Obstacle, Pass
from kept.passes.map_spec import map_operations

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class SplitProjections(Pass):
    """Split fused query-key-value and gate-up projections by rows. EXACT; adds no parameters."""

    name: ClassVar[str] = "split-projections"
    summary: ClassVar[str] = "fused projections become separate ones"

    def requires(self, program: Program) -> Obstacle | None:
        """Require a fused projection."""
        if not self.ensures(program.spec):
            return None
        return Obstacle("layers", "have no fused projection", way_out=UNNEEDED)

    def run(self, program: Program) -> Program:
        """Take the rows of each part."""
        changed: dict[str, Lazy] = {}
        for at, attention in program.spec.operations(Attention):
            if attention.fused:
                changed |= _split(program, at, "qkv", _attention_parts(attention))
        for at, mlp in program.spec.operations(Mlp):
            if mlp.fused:
                changed |= _split(program, at, "gate_up", {"gate": mlp.size, "up": mlp.size})
        spec = map_operations(program.spec, Attention, lambda attention: replace(attention, fused=False))
        return program.updated(map_operations(spec, Mlp, _unfused_mlp), changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether no projection is fused."""
        fused = [one.fused for _, one in spec.operations(Attention)] + [one.fused for _, one in spec.operations(Mlp)]
        return not any(fused)


def _attention_parts(attention: Attention) -> dict[str, int]:
    return {"q": attention.query_size, "k": attention.kv_size, "v": attention.kv_size}


def _split(program: Program, at: str, fused: str, parts: dict[str, int]) -> dict[str, Lazy]:
    out: dict[str, Lazy] = {}
    for kind in ("weight", "bias"):
        whole = program.weights.get(f"{at}{fused}.{kind}")
        if whole is None:
            continue
        start = 0
        for part, size in parts.items():
            out[f"{at}{part}.{kind}"] = take_rows(whole, start, start + size)
            start += size
    return out


def _unfused_mlp(mlp: Mlp) -> Mlp:
    return replace(mlp, fused=False, gate_bias=mlp.up_bias) if mlp.fused else mlp
