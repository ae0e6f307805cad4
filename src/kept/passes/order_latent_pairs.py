"""Put the members of rotated pairs of latent attention side by side, or into two halves."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.spec import LatentAttention, Rope
from kept.passes.algebra import permuted_rows
from kept.passes.base import UNNEEDED, Obstacle, Pass
from kept.passes.map_spec import map_operations

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.ir.tensors import Lazy


@dataclass(frozen=True)
class OrderLatentPairs(Pass):
    """Permute the rotary parts of queries and of the shared key. EXACT: their products do not change."""

    interleaved: bool

    name: ClassVar[str] = "order-latent-pairs"
    summary: ClassVar[str] = "the two members of each rotated pair of latent attention become neighbours, or two halves"

    def requires(self, program: Program) -> Obstacle | None:
        """Require latent attention with pairs in the other order."""
        if not any(self._affects(one.rope) for _, one in program.spec.operations(LatentAttention)):
            order = "neighbours" if self.interleaved else "halves"
            return Obstacle("layers", f"have no rotated pairs but {order}", way_out=UNNEEDED)
        return None

    def run(self, program: Program) -> Program:
        """Permute the rows of the query projection, and those of the rotary key, with their biases."""
        changed: dict[str, Lazy] = {}
        for at, one in program.spec.operations(LatentAttention):
            if self._affects(one.rope):
                names = {"q" if one.q_rank is None else "q_b": _query_rows(one, interleaved=self.interleaved)}
                names["kv_a"] = (
                    *range(one.kv_rank),
                    *(one.kv_rank + old for old in _order(one, interleaved=self.interleaved)),
                )
                for slot, order in (
                    (f"{at}{name}.{kind}", o) for name, o in names.items() for kind in ("weight", "bias")
                ):
                    if slot in program.weights:
                        changed[slot] = permuted_rows(program.weights[slot], order)
        return program.updated(map_operations(program.spec, LatentAttention, self._ordered), changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether all rotated pairs have this order."""
        return not any(self._affects(one.rope) for _, one in spec.operations(LatentAttention))

    def _affects(self, rope: Rope | None) -> bool:
        return rope is not None and rope.interleaved != self.interleaved

    def _ordered(self, one: LatentAttention) -> LatentAttention:
        return one if one.rope is None else replace(one, rope=replace(one.rope, interleaved=self.interleaved))


def _order(one: LatentAttention, *, interleaved: bool) -> tuple[int, ...]:
    """Return for each new element of the rotary key its old place."""
    half = one.rope_dim // 2
    if interleaved:
        return tuple(pair + member * half for pair in range(half) for member in range(2))
    return tuple(2 * pair + member for member in range(2) for pair in range(half))


def _query_rows(one: LatentAttention, *, interleaved: bool) -> tuple[int, ...]:
    order = (*range(one.nope_dim), *(one.nope_dim + old for old in _order(one, interleaved=interleaved)))
    return tuple(head * one.query_dim + old for head in range(one.heads) for old in order)
