"""Repeat key-value heads so that every layer has the same number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import lcm
from typing import TYPE_CHECKING, ClassVar

from kept.ir.spec import Attention
from kept.passes.algebra import permuted_rows
from kept.passes.base import UNNEEDED, Obstacle, Pass
from kept.passes.map_spec import map_operations
from kept.passes.split_projections import SplitProjections

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.ir.tensors import Lazy


@dataclass(frozen=True)
class RepeatKeyValueHeads(Pass):
    """Every layer gets `heads` key-value heads (0: the smallest number that all layers can have), by repetition.

    A query head then reads a copy of the head that it read. EXACT; adds parameters and KV cache.
    """

    heads: int = 0

    name: ClassVar[str] = "repeat-key-value-heads"
    summary: ClassVar[str] = "key-value heads are repeated so that every layer has the same number"

    def requires(self, program: Program) -> Obstacle | None:
        """Require layers that differ, with split projections and norms that all heads share."""
        wanted = self._wanted(program.spec)
        if all(one.kv_heads == wanted for _, one in program.spec.operations(Attention)):
            return Obstacle("layers", f"have {wanted} key-value heads each", way_out=UNNEEDED)
        for at, one in program.spec.operations(Attention):
            if one.fused:
                return Obstacle(at[:-1], "is stored fused", SplitProjections())
            if one.qk_norm is not None and one.qk_norm.scope != "shared":
                return Obstacle(at[:-1], "has a norm of its own for each head", way_out="none is known")
            if one.heads % wanted or wanted % one.kv_heads:
                why = f"has {one.heads} heads over {one.kv_heads}, which {wanted} cannot replace"
                return Obstacle(at[:-1], why, way_out="no number of heads serves all layers")
        return None

    def run(self, program: Program) -> Program:
        """Repeat the rows of keys and values."""
        wanted = self._wanted(program.spec)
        changed: dict[str, Lazy] = {}
        for at, one in program.spec.operations(Attention):
            heads, size = one.kv_heads, one.head_dim
            order = tuple(head * size + e for head in range(heads) for _ in range(wanted // heads) for e in range(size))
            for name in (f"{at}{part}.{kind}" for part in "kv" for kind in ("weight", "bias")):
                if name in program.weights and heads != wanted:
                    changed[name] = permuted_rows(program.weights[name], order)
        spec = map_operations(program.spec, Attention, lambda one: replace(one, kv_heads=wanted))
        return program.updated(spec, changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether all layers have the same number of key-value heads."""
        return len({one.kv_heads for _, one in spec.operations(Attention)}) <= 1

    def _wanted(self, spec: Spec) -> int:
        return self.heads or lcm(*{one.kv_heads for _, one in spec.operations(Attention)})
