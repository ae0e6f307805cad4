"""Split fused projections."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.tensors import Lazy, take_rows
from kept.passes.base import Obstacle, Pass
from kept.passes.map_spec import map_layers

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Attention, Layer, Mlp, Spec


@dataclass(frozen=True)
class SplitProjections(Pass):
    """Fused query-key-value and gate-up become separate projections: runs of rows. EXACT; costs nothing."""

    name: ClassVar[str] = "split-projections"
    summary: ClassVar[str] = "fused projections become separate ones"

    def requires(self, program: Program) -> Obstacle | None:
        """A fused projection."""
        if any(layer.mixer.fused or layer.mlp.fused for layer in program.spec.layers):
            return None
        return Obstacle("layers", "have no fused projection", way_out="leave this pass out")

    def run(self, program: Program) -> Program:
        """Take the rows of each part."""
        changed: dict[str, Lazy] = {}
        for i, layer in enumerate(program.spec.layers):
            for fused, parts in (*_attention_parts(layer.mixer), *_mlp_parts(layer.mlp)):
                changed.update(_split(program, f"layers.{i}.", fused, parts))
        return program.updated(map_layers(program.spec, _unfused), changed)

    def ensures(self, spec: Spec) -> bool:
        """Nothing is fused."""
        return not any(layer.mixer.fused or layer.mlp.fused for layer in spec.layers)


Parts = tuple[tuple[str, dict[str, int]], ...]


def _attention_parts(mixer: Attention) -> Parts:
    keys = mixer.kv_heads * mixer.head_dim
    parts = {"mixer.q": mixer.heads * mixer.head_dim, "mixer.k": keys, "mixer.v": keys}
    return (("mixer.qkv", parts),) if mixer.fused else ()


def _mlp_parts(mlp: Mlp) -> Parts:
    return (("mlp.gate_up", {"mlp.gate": mlp.size, "mlp.up": mlp.size}),) if mlp.fused else ()


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


def _unfused(layer: Layer) -> Layer:
    mlp = replace(layer.mlp, fused=False, gate_bias=layer.mlp.up_bias) if layer.mlp.fused else layer.mlp
    return replace(layer, mixer=replace(layer.mixer, fused=False), mlp=mlp)
