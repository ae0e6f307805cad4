"""Fold scalar multipliers into the adjacent weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.spec import Attention
from kept.passes.algebra import scaled, scaled_gain
from kept.passes.base import UNNEEDED, Obstacle, Pass
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.map_spec import map_layers, map_operations
from kept.passes.plain_gains import PlainGains
from kept.passes.untie_head import UntieHead

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Layer, Norm, Spec
    from kept.ir.tensors import Lazy


@dataclass(frozen=True)
class FoldMultipliers(Pass):
    """Multiply embedding, residual, attention and logit multipliers into the weights. EXACT; adds no parameters.

    E <- m E; o, down <- r o, r down (or the gain and bias of a post-norm); q <- s sqrt(head_dim) q (or the gain and
    bias of its norm); head <- m head. A head tied to an embedding with another multiplier is untied first.
    """

    name: ClassVar[str] = "fold-multipliers"
    summary: ClassVar[str] = "scalar multipliers are folded into the adjacent weights"

    def requires(self, program: Program) -> Obstacle | None:
        """Require a multiplier, and an untied head if embedding and head are scaled differently."""
        spec = program.spec
        if not _has_multiplier(spec):
            return Obstacle("model", "has no multiplier", way_out=UNNEEDED)
        if spec.head.tied and spec.embedding_multiplier != spec.head.multiplier:
            return Obstacle("head", "is tied to the embedding and has another multiplier", UntieHead())
        if spec.head.normalised and spec.head.multiplier != 1:
            return Obstacle("head", "is normalised after any multiplier", FoldHeadNorm())
        bare = next((i for i, layer in enumerate(spec.layers) if _hidden(layer)), None)
        if bare is not None:
            return Obstacle(f"layers.{bare}", "has a norm without a gain to hold a multiplier", PlainGains())
        return None

    def run(self, program: Program) -> Program:
        """Scale the weights, and set every multiplier to 1."""
        spec = program.spec
        changed = _scaled(program, ("embedding.weight",), spec.embedding_multiplier)
        if not spec.head.tied:
            changed |= _scaled(program, ("head.weight",), spec.head.multiplier)
        changed |= _scaled(program, ("head.bias",), spec.head.multiplier)
        for i, layer in enumerate(spec.layers):
            changed |= _residual(program, f"layers.{i}.", layer)
        for at, attention in spec.operations(Attention):
            changed |= _queries(program, at, attention)
        plain = replace(spec, embedding_multiplier=1.0, head=replace(spec.head, multiplier=1.0))
        plain = map_layers(plain, lambda layer: replace(layer, residual_multiplier=1.0))
        return program.updated(map_operations(plain, Attention, lambda one: replace(one, scale=None)), changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether no multiplier is left."""
        return not _has_multiplier(spec)


def _has_multiplier(spec: Spec) -> bool:
    return (
        spec.embedding_multiplier != 1
        or spec.head.multiplier != 1
        or any(layer.residual_multiplier != 1 for layer in spec.layers)
        or any(_query_factor(attention) != 1 for _, attention in spec.operations(Attention))
    )


def _hidden(layer: Layer) -> bool:
    """Return whether a multiplier follows a norm without a gain to fold it into."""
    norms = [branch.post_norm for branch in layer.branches if layer.residual_multiplier != 1]
    if layer.attention is not None and _query_factor(layer.attention) != 1:
        norms += [norm for _, norm, _ in layer.attention.norms()]
    return any(norm is not None and not norm.gain for norm in norms)


def _query_factor(mixer: Attention) -> float:
    return 1.0 if mixer.scale is None else mixer.scale * mixer.head_dim**0.5


def _scaled(program: Program, names: tuple[str, ...], factor: float) -> dict[str, Lazy]:
    if factor == 1:
        return {}
    return {name: scaled(program.weights[name], factor) for name in names if name in program.weights}


def _residual(program: Program, at: str, layer: Layer) -> dict[str, Lazy]:
    out: dict[str, Lazy] = {}
    for branch in layer.branches:
        if branch.post_norm is None:
            names = tuple(f"{at}{writer}.{part}" for writer in branch.writers for part in ("weight", "bias"))
            out |= _scaled(program, names, layer.residual_multiplier)
        else:
            out |= _gain(program, at + branch.post_norm_name, branch.post_norm, layer.residual_multiplier)
    return out


def _queries(program: Program, at: str, mixer: Attention) -> dict[str, Lazy]:
    factor = _query_factor(mixer)
    if mixer.qk_norm is not None:
        return _gain(program, f"{at}q_norm", mixer.qk_norm.norm, factor)
    if mixer.fused:
        return _first_rows(program, at, mixer, factor)
    return _scaled(program, (f"{at}q.weight", f"{at}q.bias"), factor)


def _first_rows(program: Program, at: str, mixer: Attention, factor: float) -> dict[str, Lazy]:
    if factor == 1:
        return {}
    rows = mixer.heads * mixer.head_dim
    names = (name for name in (f"{at}qkv.weight", f"{at}qkv.bias") if name in program.weights)
    return {name: scaled(program.weights[name], factor, rows) for name in names}


def _gain(program: Program, at: str, norm: Norm, factor: float) -> dict[str, Lazy]:
    if factor == 1:
        return {}
    out = {f"{at}.gain": scaled_gain(program.weights[f"{at}.gain"], factor, norm.offset)}
    return out | _scaled(program, (f"{at}.bias",), factor)
