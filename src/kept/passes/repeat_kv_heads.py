"""Layers with different numbers of key-value heads, as layers with one number."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import lcm
from typing import TYPE_CHECKING, ClassVar

from kept.passes.algebra import permuted_rows
from kept.passes.base import Obstacle, Pass
from kept.passes.map_spec import map_mixers
from kept.passes.split_projections import SplitProjections

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.ir.tensors import Lazy


@dataclass(frozen=True)
class RepeatKeyValueHeads(Pass):
    """Every layer gets `heads` key-value heads (0: the least that serves all layers); each is repeated in place.

    A query head then reads a copy of the head that it read. EXACT; costs cache and parameters where heads are repeated.
    """

    heads: int = 0

    name: ClassVar[str] = "repeat-key-value-heads"
    summary: ClassVar[str] = "key-value heads are repeated until every layer has as many"

    def requires(self, program: Program) -> Obstacle | None:
        """Layers that differ, with split projections and norms that heads share."""
        wanted = self._wanted(program.spec)
        if all(layer.mixer.kv_heads == wanted for layer in program.spec.layers):
            return Obstacle("layers", f"have {wanted} key-value heads each", way_out="leave this pass out")
        for i, layer in enumerate(program.spec.layers):
            if layer.mixer.fused:
                return Obstacle(f"layers.{i}.mixer", "is stored fused", SplitProjections())
            if layer.mixer.qk_norm is not None and layer.mixer.qk_norm.scope != "shared":
                return Obstacle(f"layers.{i}.mixer", "has a norm of its own for each head", way_out="none is known")
            if layer.mixer.heads % wanted or wanted % layer.mixer.kv_heads:
                why = f"has {layer.mixer.heads} heads over {layer.mixer.kv_heads}, which {wanted} cannot replace"
                return Obstacle(f"layers.{i}.mixer", why, way_out="no number of heads serves all layers")
        return None

    def run(self, program: Program) -> Program:
        """Repeat the rows of keys and values."""
        wanted = self._wanted(program.spec)
        changed: dict[str, Lazy] = {}
        for i, layer in enumerate(program.spec.layers):
            heads, size = layer.mixer.kv_heads, layer.mixer.head_dim
            order = tuple(head * size + e for head in range(heads) for _ in range(wanted // heads) for e in range(size))
            for name in (f"layers.{i}.mixer.{part}.{kind}" for part in "kv" for kind in ("weight", "bias")):
                if name in program.weights and heads != wanted:
                    changed[name] = permuted_rows(program.weights[name], order)
        return program.updated(map_mixers(program.spec, lambda mixer: replace(mixer, kv_heads=wanted)), changed)

    def ensures(self, spec: Spec) -> bool:
        """One number of key-value heads."""
        return len({layer.mixer.kv_heads for layer in spec.layers}) == 1

    def _wanted(self, spec: Spec) -> int:
        return self.heads or lcm(*{layer.mixer.kv_heads for layer in spec.layers})
