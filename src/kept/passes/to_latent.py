"""Express attention with rotary positions as latent attention, exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.ir.frequencies import frequencies
from kept.ir.spec import Attention, Dynamic, LatentAttention, LongRope, Norm, Proportional, Rope, Yarn
from kept.ir.tensors import Full, Lazy, OneHot, join, take_rows, zeros
from kept.passes.algebra import permuted_rows, scaled
from kept.passes.base import UNNEEDED, Obstacle, Pass
from kept.passes.drop_position_scale import DropPositionScale
from kept.passes.drop_window import DropWindow
from kept.passes.full_rotary import UNROTATED, head_order
from kept.passes.latent_norm import constant_coordinates
from kept.passes.map_spec import map_operations
from kept.passes.split_projections import SplitProjections

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.passes.latent_norm import ConstantCoordinates


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
        """Require attention with rotary positions, without a norm or a cap between projections and scores."""
        found = [*program.spec.operations(Attention)]
        if not found:
            return Obstacle("layers", "have no softmax attention", way_out=UNNEEDED)
        return next((obstacle for at, one in found if (obstacle := _obstacle(at, one)) is not None), None)

    def run(self, program: Program) -> Program:
        """Build the projections of every layer from the source's rows."""
        changed: dict[str, Lazy] = {}
        for at, one in program.spec.operations(Attention):
            changed |= {f"{at}{name}": tensor for name, tensor in _Layer(program, at, one, self.eps).weights()}
        spec = map_operations(
            program.spec, Attention, lambda one: latent(one, self.eps, program.dtype, program.spec.context)
        )
        return program.updated(spec, changed)

    def reused(self, program: Program) -> frozenset[str]:
        """Return the weights of all latent layers: they are functions of those of attention."""
        after = program.spec.operations(Attention)
        parts = ("q_a", "q_b", "q_norm", "kv_a", "kv_norm", "kv_b")
        return frozenset(
            f"{at}{part}.{kind}" for at, _ in after for part in parts for kind in ("weight", "bias", "gain")
        )

    def ensures(self, spec: Spec) -> bool:
        """Return whether no layer has softmax attention."""
        return not any(True for _ in spec.operations(Attention))


DISTIL = "distil it into a fresh model of the target instead"


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


# ---------------------------------------------------------------------------------------------------------------- spec


def latent(one: Attention, eps: float, dtype: str, context: int) -> LatentAttention:
    """Return the latent attention with the function of an attention whose weights have `dtype`."""
    sizes = _sizes(one)
    queries = None if not one.q_bias else constant_coordinates(one.query_size, dtype)
    values = one.kv_heads * (one.head_dim + sizes.still)
    return LatentAttention(
        heads=one.heads,
        kv_heads=one.heads,
        nope_dim=sizes.nope,
        rope_dim=sizes.rotary,
        value_dim=one.head_dim,
        kv_rank=values + len(constant_coordinates(values, dtype).factors),
        rope=_repeated(one, context),
        kv_norm=Norm("rms", eps),
        q_rank=None if queries is None else one.query_size + len(queries.factors),
        q_norm=None if queries is None else Norm("rms", eps),
        q_bias=one.q_bias,
        kv_bias=True,
        o_bias=one.o_bias,
    )


@dataclass(frozen=True)
class _Sizes:
    """Sizes of a head: `turning` rotated elements, `still` others; `rotary` of the shared key, `nope` of the rest."""

    turning: int
    still: int
    rotary: int
    nope: int


def _sizes(one: Attention) -> _Sizes:
    assert one.rope is not None
    turning = one.rope.dims
    rotary, still = one.kv_heads * turning, one.head_dim - turning
    return _Sizes(turning, still, rotary, _padding(one, rotary, max(1, still)))


def _padding(one: Attention, rotary: int, least: int) -> int:
    """Return the size of the part without positions, `least` or so much more that scores keep a power of two.

    That is done if it makes queries at most twice as long.
    """
    for exponent in range(-8, 9):
        nope = round(4.0**exponent / _scale(one) ** 2) - rotary
        if least <= nope <= max(rotary, least) and _factor(one, nope + rotary) == 2.0**exponent:
            return nope
    return least


def _scale(one: Attention) -> float:
    return one.head_dim**-0.5 if one.scale is None else one.scale


def _factor(one: Attention, size: int) -> float:
    """Return the factor on queries of `size` elements: the classes multiply scores by size^-0.5."""
    found = math.sqrt(size * _scale(one) ** 2)
    exact = 2.0 ** round(math.log2(found))
    return exact if math.isclose(found, exact, rel_tol=1e-12) else found


def _repeated(one: Attention, context: int) -> Rope:
    """Return the rotation of the shared key: the frequencies of a head, once for each key-value head.

    Both lists of divisors are the same unless the source has two, so that the length between them has no effect.
    """
    rope = one.rope
    assert rope is not None
    short, long = (_divisors(one, rope, far) * one.kv_heads for far in (False, True))
    original, temperature = context, 1.0
    if isinstance(rope.scaling, LongRope):
        original, temperature = rope.scaling.original_max_position_embeddings, rope.scaling.temperature
    elif isinstance(rope.scaling, Yarn):
        temperature = rope.scaling.temperature
    scaling = LongRope(short, long, original, 1.0, temperature)
    return Rope(1.0, one.kv_heads * rope.dims, scaling=scaling)


def _divisors(one: Attention, rope: Rope, far: bool) -> tuple[float, ...]:  # noqa: FBT001 - one of two lists
    turning = frequencies(rope, one.head_dim, long=far)[: rope.dims // 2]
    return tuple(1 / frequency if frequency else UNROTATED for frequency in turning)


# ------------------------------------------------------------------------------------------------------------- weights


class _Layer:
    """The weights of one layer's latent attention."""

    def __init__(self, program: Program, at: str, one: Attention, eps: float) -> None:
        self.one, self.sizes, self.dtype = one, _sizes(one), program.dtype
        self.after = latent(one, eps, self.dtype, program.spec.context)
        self.source = {
            name: program.weights.get(f"{at}{name}")
            for name in ("q.weight", "q.bias", "k.weight", "k.bias", "v.weight", "v.bias")
        }

    def weights(self) -> Iterator[tuple[str, Lazy]]:
        """Yield every weight but the output projection, which stays."""
        values = constant_coordinates(self.one.kv_heads * (self.one.head_dim + self.sizes.still), self.dtype)
        yield (
            "kv_a.weight",
            join([*self._latent("weight"), self._none(len(values.factors)), *self._rotary_key("weight")]),
        )
        yield "kv_a.bias", join([*self._latent("bias"), *self._constants(values), *self._rotary_key("bias")])
        yield "kv_norm.gain", self._gain(values, self.after.kv_rank)
        yield "kv_b.weight", self._up_projection()
        if self.after.q_rank is None:
            yield "q.weight", join([part for head in range(self.one.heads) for part in self._query(head)])
        else:
            yield from self._queries_by_latent(self.after.q_rank)

    # ------------------------------------------------------------------------------------------------- keys and values

    def _latent(self, kind: str) -> Iterator[Lazy]:
        """Yield the rows of the values, and of the unrotated parts of the keys."""
        yield self._rows("v", kind)
        for head in range(self.one.kv_heads if self.sizes.still else 0):
            start = head * self.one.head_dim + self.sizes.turning
            yield take_rows(self._ordered("k", kind), start, start + self.sizes.still)

    def _rotary_key(self, kind: str) -> Iterator[Lazy]:
        """Yield the rows of the rotated parts of the keys: first members of all pairs, then second members."""
        keys, half = self._ordered("k", kind), self.sizes.turning // 2
        for member in range(2):
            for head in range(self.one.kv_heads):
                start = head * self.one.head_dim + member * half
                yield take_rows(keys, start, start + half)

    def _up_projection(self) -> Lazy:
        """Return the rows that take a head's unrotated key and its values out of the latent."""
        size, still, columns = self.one.head_dim, self.sizes.still, list[int | None]()
        for head in range(self.one.heads):
            group = head * self.one.kv_heads // self.one.heads
            first = self.one.kv_heads * size + group * still
            columns += [*range(first, first + still), *[None] * (self.sizes.nope - still)]
            columns += [*range(group * size, (group + 1) * size)]
        return OneHot((len(columns), self.after.kv_rank), self.dtype, tuple(columns))

    # --------------------------------------------------------------------------------------------------------- queries

    def _query(self, head: int) -> Iterator[Lazy]:
        """Yield the rows of a query: unrotated elements, zeros, and the two members of pairs in their head's place."""
        sizes, start, half = self.sizes, head * self.one.head_dim, self.sizes.turning // 2
        queries, group = self._scaled_queries("weight"), head * self.one.kv_heads // self.one.heads
        if sizes.still:
            yield take_rows(queries, start + sizes.turning, start + self.one.head_dim)
        yield from self._zeros(sizes.nope - sizes.still)
        for member in range(2):
            yield from self._zeros(group * half)
            yield take_rows(queries, start + member * half, start + (member + 1) * half)
            yield from self._zeros((self.one.kv_heads - 1 - group) * half)

    def _queries_by_latent(self, rank: int) -> Iterator[tuple[str, Lazy]]:
        """Yield the projections of queries with a bias: a latent of all queries, and a selection of its elements."""
        values = constant_coordinates(self.one.query_size, self.dtype)
        yield "q_a.weight", join([self._scaled_queries("weight"), self._none(len(values.factors))])
        yield "q_a.bias", join([self._scaled_queries("bias"), *self._constants(values)])
        yield "q_norm.gain", self._gain(values, rank)
        columns = tuple(column for head in range(self.one.heads) for column in self._query_columns(head))
        yield "q_b.weight", OneHot((len(columns), rank), self.dtype, columns)

    def _query_columns(self, head: int) -> Iterator[int | None]:
        sizes, start, half = self.sizes, head * self.one.head_dim, self.sizes.turning // 2
        group = head * self.one.kv_heads // self.one.heads
        yield from range(start + sizes.turning, start + self.one.head_dim)
        yield from [None] * (sizes.nope - sizes.still)
        for member in range(2):
            yield from [None] * (group * half)
            yield from range(start + member * half, start + (member + 1) * half)
            yield from [None] * ((self.one.kv_heads - 1 - group) * half)

    def _scaled_queries(self, kind: str) -> Lazy:
        queries, factor = self._ordered("q", kind), _factor(self.one, self.after.query_dim)
        return queries if factor == 1 else scaled(queries, factor)

    # ----------------------------------------------------------------------------------------------------------- parts

    def _rows(self, name: str, kind: str) -> Lazy:
        """Return a weight or a bias of the source; zeros for a bias that it does not have."""
        found = self.source[f"{name}.{kind}"]
        if found is not None:
            return found
        return zeros((self.one.query_size if name == "q" else self.one.kv_size,), self.dtype)

    def _ordered(self, name: str, kind: str) -> Lazy:
        """Return queries or keys with the first members of each head's pairs first, then the second, then the rest."""
        one, rows = self.one, self._rows(name, kind)
        order = _order(one)
        if order == tuple(range(one.head_dim)):
            return rows
        heads = rows.shape[0] // one.head_dim
        return permuted_rows(rows, tuple(head * one.head_dim + old for head in range(heads) for old in order))

    def _gain(self, values: ConstantCoordinates, rank: int) -> Lazy:
        used = rank - len(values.factors)
        return join([Full((used,), self.dtype, values.gain), zeros((len(values.factors),), self.dtype)])

    def _constants(self, values: ConstantCoordinates) -> Iterator[Lazy]:
        return (Full((1,), self.dtype, value) for value in values.values)

    def _none(self, rows: int) -> Lazy:
        width = self._rows("v", "weight").shape[1]
        return zeros((rows, width), self.dtype)

    def _zeros(self, rows: int) -> Iterator[Lazy]:
        if rows:
            yield self._none(rows)


def _order(one: Attention) -> tuple[int, ...]:
    """Return for each new dimension of a head its old index: rotated pairs in halves, then unrotated dimensions."""
    assert one.rope is not None
    halves = head_order(replace(one.rope, scaling=None), one.rope.dims)
    if isinstance(one.rope.scaling, Proportional):  # pairs are those of the whole head, the first of them turn
        whole = head_order(one.rope, one.head_dim)
        half, turning = one.head_dim // 2, one.rope.dims // 2
        return (
            *whole[:turning],
            *whole[half : half + turning],
            *whole[turning:half],
            *whole[half + turning :],
        )
    return (*halves, *range(one.rope.dims, one.head_dim))
