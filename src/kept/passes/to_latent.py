"""Express attention with rotary positions as latent attention, exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.spec import Attention, Dynamic
from kept.passes.base import UNNEEDED, Obstacle, Pass
from kept.passes.drop_position_scale import DropPositionScale
from kept.passes.drop_window import DropWindow
from kept.passes.latent_spec import latent
from kept.passes.latent_weights import LatentWeights
from kept.passes.reasons import DISTIL
from kept.passes.repeat_kv_heads import RepeatKeyValueHeads
from kept.passes.split_projections import SplitProjections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.program import Program
    from kept.ir.spec import Layer, Spec
    from kept.ir.tensors import Lazy


@dataclass(frozen=True)
class ToLatent(Pass):
    """Attention becomes latent attention with the same function and a KV cache of the same size. EXACT.

    The rotary key that all heads share holds the rotated keys of every key-value head, side by side; a query has its
    own elements in the part of its head and zeros elsewhere. The frequencies repeat, which LongRoPE's divisors state.
    The latent holds the values and the unrotated keys. Its norm is made the identity by constant coordinates
    (`latent_norm`). `eps` is the epsilon of that norm, 1e-6 in the stock classes.

    Queries are scaled because the classes divide scores by the root of the query's size; zeros are added to queries
    where that makes the factor a power of two, which no rounding changes. Queries with a bias have a latent too.
    """

    eps: float = 1e-6

    name: ClassVar[str] = "to-latent"
    summary: ClassVar[str] = "attention becomes latent attention with a KV cache of the same size"

    def requires(self, program: Program) -> Obstacle | None:
        """Require rotary positions, no norm or cap between projections and scores, and another dtype than float16."""
        found = [*program.spec.operations(Attention)]
        if not found:
            return Obstacle("layers", "have no softmax attention", way_out=UNNEEDED)
        if program.dtype == "F16":
            why = "are in float16, which ends below the constants that make the norm of a latent the identity"
            return Obstacle("weights", why, way_out="choose another dtype (--dtype bfloat16)")
        obstacles = (obstacle for at, one in found if (obstacle := _obstacle(at, one)) is not None)
        if len({one.kv_heads for _, one in found}) > 1:
            unequal = Obstacle("layers", "have different numbers of key-value heads", RepeatKeyValueHeads())
            return next(obstacles, unequal)
        return next(obstacles, None)

    def run(self, program: Program) -> Program:
        """Build the projections of every layer from the source's rows."""
        changed: dict[str, Lazy] = {}
        layers = list(program.spec.layers)
        for i, layer in enumerate(layers):
            if isinstance(layer.mixer, Attention):
                at, after = f"layers.{i}.mixer.", latent(layer.mixer, self.eps, query_latent=has_query_bias(layer))
                made = LatentWeights(program, at, layer.mixer, after)
                changed |= {f"{at}{name}": tensor for name, tensor in made.weights()}
                layers[i] = replace(layer, mixer=after)
        return program.updated(replace(program.spec, layers=tuple(layers)), changed)

    def reused(self, program: Program) -> frozenset[str]:
        """Return the weights of all latent layers: they are functions of those of attention."""
        sources = program.spec.operations(Attention)
        parts = ("q_a", "q_b", "q_norm", "kv_a", "kv_norm", "kv_b")
        return frozenset(
            f"{at}{part}.{kind}" for at, _ in sources for part in parts for kind in ("weight", "bias", "gain")
        )

    def ensures(self, spec: Spec) -> bool:
        """Return whether no layer has softmax attention."""
        return not any(True for _ in spec.operations(Attention))


def _obstacle(at: str, one: Attention) -> Obstacle | None:
    """Return why an attention cannot become latent, or the pass to run before."""
    removable = (
        (one.fused, "is stored fused", SplitProjections()),
        (one.window is not None, "has a sliding window", DropWindow()),
        (one.position_scale is not None, "scales queries by their position", DropPositionScale()),
    )
    lasting = (
        (one.qk_norm is not None, "normalises queries and keys, which latent attention does not"),
        (one.softcap is not None, "caps its scores, which latent attention does not"),
        (one.rope is None, "has no rotary positions, and latent attention always has"),
    )
    fixable = (Obstacle(at[:-1], why, fix) for has, why, fix in removable if has)
    lost = (Obstacle(at[:-1], why, way_out=DISTIL) for has, why in lasting if has)
    return next((obstacle for found in (lost, fixable, _scaling(at, one)) for obstacle in found), None)


def _scaling(at: str, one: Attention) -> Iterator[Obstacle]:
    if one.rope is not None and isinstance(one.rope.scaling, Dynamic):
        why = "has frequencies that depend on the length (dynamic scaling), which no divisors can state"
        yield Obstacle(f"{at}rope", why, way_out="set rope_scaling to null for the original length")


def has_query_bias(layer: Layer) -> bool:
    """Return whether queries have a bias, or will have one when the bias of the norm before them is folded."""
    assert isinstance(layer.mixer, Attention)
    return layer.mixer.q_bias or (layer.mixer_norm is not None and layer.mixer_norm.bias)
