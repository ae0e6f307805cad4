"""Express partial or interleaved rotary positions as full, half-split ones."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from kept.ir.spec import Attention, Linear, Llama3, LongRope, Proportional
from kept.passes.algebra import permuted_columns, permuted_rows, scaled_rows
from kept.passes.base import UNNEEDED, Obstacle, Pass
from kept.passes.map_spec import map_operations
from kept.passes.split_projections import SplitProjections

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.ir.spec import Rope, Spec
    from kept.ir.tensors import Lazy

LARGEST_EXPONENT = 38
"""Largest base-10 exponent of theta: runtimes compute frequencies in float32."""

UNROTATED = 1e30
"""Divisor of the frequency of an unrotated pair: its angle is below float64's resolution at any position."""

RopeForm = Literal["llama3", "proportional"]

ROPE_FORMS: tuple[RopeForm, ...] = ("llama3", "proportional")


@dataclass(frozen=True)
class FullRotary(Pass):
    """Permute head dimensions so that pair i is (i, i + head / 2) and rotated pairs come first. EXACT.

    theta' = theta^(head / rotated) keeps the frequencies of rotated pairs; unrotated pairs would get longer
    wavelengths. Two rope types of the stock classes set their frequencies to 0:

    llama3: divides the frequencies of wavelengths above a threshold by a factor, here 1e30. The threshold is put
    between the last rotated pair and the first unrotated one. It cannot express position interpolation, for which
    `proportional` is used.
    proportional: frequencies of 0; only transformers 5 has it.

    Queries and keys are permuted alike, so their products do not change. LongRoPE has a divisor for each frequency, so
    unrotated pairs get the divisor 1e30. Its temperature t, a factor of cos and sin, then scales unrotated pairs too;
    to compensate, their query rows are divided by t^2.
    """

    rope: RopeForm = "llama3"

    name: ClassVar[str] = "full-rotary"
    summary: ClassVar[str] = "partial or interleaved rotation becomes the full, half-split one"

    def requires(self, program: Program) -> Obstacle | None:
        """Require a partial or interleaved rotation whose scaling a full rotation can express."""
        affected = [(at, one) for at, one in program.spec.operations(Attention) if _affected(one)]
        if not affected:
            return Obstacle("layers", "rotate whole heads in halves", way_out=UNNEEDED)
        for at, mixer in affected:
            rope = mixer.rope
            if mixer.fused:
                return Obstacle(at[:-1], "is stored fused", SplitProjections())
            if rope is None or rotated_span(rope, mixer.head_dim) == mixer.head_dim:
                continue
            if isinstance(rope.scaling, LongRope) and mixer.qk_norm is not None:
                why = "normalises queries, which undoes what is done to some of their rows"
                return Obstacle(at[:-1], why, way_out="no stock rope type says both")
            if not isinstance(rope.scaling, Linear | LongRope | None):
                why = f"rotates {rope.dims} of {mixer.head_dim} dimensions with {rope.scaling.KIND} scaling"
                return Obstacle(f"{at}rope", why, way_out="no stock rope type says both")
            if math.log10(rope.theta) * mixer.head_dim / rope.dims > LARGEST_EXPONENT:
                why = f"needs theta {rope.theta:g}^({mixer.head_dim}/{rope.dims}), beyond float32"
                return Obstacle(f"{at}rope", why, way_out="no stock rope type can say it")
        return None

    def run(self, program: Program) -> Program:
        """Permute the rows of queries and keys, their biases and the gains of their norms."""
        changed: dict[str, Lazy] = {}
        for at, one in program.spec.operations(Attention):
            if _affected(one) and one.rope is not None:
                changed |= _permuted(program, at, one, head_order(one.rope, one.head_dim))
        return program.updated(map_operations(program.spec, Attention, lambda one: _full(one, self.rope)), changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether every rotation is full and half-split."""
        return not any(_affected(one) for _, one in spec.operations(Attention))


def head_order(rope: Rope, head_dim: int) -> tuple[int, ...]:
    """Return for each new dimension of a head its old index."""
    span = rotated_span(rope, head_dim)
    half = span // 2
    firsts = [2 * i for i in range(half)] if rope.interleaved else list(range(half))
    seconds = [2 * i + 1 for i in range(half)] if rope.interleaved else list(range(half, 2 * half))
    unrotated = list(range(span, head_dim))
    middle = len(unrotated) // 2
    return (*firsts, *unrotated[:middle], *seconds, *unrotated[middle:])


def _affected(mixer: Attention) -> bool:
    rope = mixer.rope
    return rope is not None and (rope.interleaved or rotated_span(rope, mixer.head_dim) != mixer.head_dim)


def rotated_span(rope: Rope, head_dim: int) -> int:
    """Return the number of dimensions that form pairs: all, if unrotated pairs are marked by frequencies of 0."""
    return head_dim if isinstance(rope.scaling, Proportional) else rope.dims


def _full(mixer: Attention, form: RopeForm) -> Attention:
    rope = mixer.rope
    if rope is None or not _affected(mixer):
        return mixer
    if rotated_span(rope, mixer.head_dim) == mixer.head_dim:
        return replace(mixer, rope=replace(rope, interleaved=False))
    rotated = replace(rope, theta=rope.theta ** (mixer.head_dim / rope.dims), interleaved=False)
    if isinstance(rope.scaling, LongRope):
        scaling = _filled(rope.scaling, mixer.head_dim // 2)
        return replace(mixer, rope=replace(rotated, dims=mixer.head_dim, scaling=scaling))
    if form == "llama3" and rope.scaling is None and rope.theta > 1:
        return replace(mixer, rope=replace(rotated, dims=mixer.head_dim, scaling=_threshold(rope)))
    factor = rope.scaling.factor if isinstance(rope.scaling, Linear) else 1.0
    return replace(mixer, rope=replace(rotated, scaling=Proportional(factor)))


def _threshold(rope: Rope) -> Llama3:
    """Return a `llama3` scaling that keeps the wavelength 2 pi theta^(1 - 2 / dims) and stops 2 pi theta.

    Its ramp begins and ends at a third and two thirds of the way between them, in logarithms, far from both in float32.
    Its bounds are in periods within an original length. That length is 1, which is below every context, as the stock
    classes require.
    """
    shortest, longest = (2 * math.pi * rope.theta ** (1 - part / rope.dims) for part in (4 / 3, 2 / 3))
    return Llama3(UNROTATED, 1 / longest, 1 / shortest, 1)


def _filled(scaling: LongRope, pairs: int) -> LongRope:
    short, long = (
        (*given, *[UNROTATED] * (pairs - len(given))) for given in (scaling.short_factor, scaling.long_factor)
    )
    return replace(scaling, short_factor=short, long_factor=long)


def _query_factors(rope: Rope, order: tuple[int, ...]) -> tuple[float, ...] | None:
    """Return a factor for each new dimension of a query; None if no temperature scales unrotated dimensions."""
    if not isinstance(rope.scaling, LongRope) or rope.dims == len(order) or rope.scaling.temperature == 1:
        return None
    return tuple(1.0 if old < rope.dims else rope.scaling.temperature**-2 for old in order)


def _permuted(program: Program, at: str, mixer: Attention, order: tuple[int, ...]) -> dict[str, Lazy]:
    out: dict[str, Lazy] = {}
    factors = None if mixer.rope is None else _query_factors(mixer.rope, order)
    for name, heads in (("q", mixer.heads), ("k", mixer.kv_heads)):
        for slot in (f"{at}{name}.weight", f"{at}{name}.bias"):
            if slot in program.weights:
                out[slot] = permuted_rows(program.weights[slot], _repeated(order, heads))
                if name == "q" and factors is not None:
                    out[slot] = scaled_rows(out[slot], factors * heads)
        for slot in (f"{at}{name}_norm.gain", f"{at}{name}_norm.bias"):
            if slot in program.weights:
                out[slot] = _permuted_gain(program.weights[slot], order)
    return out


def _permuted_gain(gain: Lazy, order: tuple[int, ...]) -> Lazy:
    if len(gain.shape) == 1:
        return permuted_rows(gain, _repeated(order, gain.shape[0] // len(order)))
    return permuted_columns(gain, order)


def _repeated(order: tuple[int, ...], heads: int) -> tuple[int, ...]:
    return tuple(head * len(order) + old for head in range(heads) for old in order)
