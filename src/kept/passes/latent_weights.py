"""The weights of the latent attention that has the function of an attention, made of the source's rows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kept.ir.spec import Attention, LatentAttention, Proportional
from kept.ir.tensors import Full, Lazy, OneHot, join, take_rows, zeros
from kept.passes.algebra import permuted_rows, scaled
from kept.passes.full_rotary import head_order
from kept.passes.latent_norm import constant_coordinates
from kept.passes.latent_spec import head_sizes, query_factor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.program import Program
    from kept.passes.latent_norm import ConstantCoordinates
    from kept.passes.latent_spec import HeadSizes


@dataclass(frozen=True)
class LatentWeights:
    """The weights of one layer: `one` is the source's attention, with weights under `at`, `after` the latent one."""

    program: Program
    at: str
    one: Attention
    after: LatentAttention

    @property
    def sizes(self) -> HeadSizes:
        """Sizes of the parts of a head."""
        return head_sizes(self.one)

    @property
    def dtype(self) -> str:
        """The dtype of new weights."""
        return self.program.dtype

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
        queries, factor = self._ordered("q", kind), query_factor(self.one, self.after.query_dim)
        return queries if factor == 1 else scaled(queries, factor)

    # ----------------------------------------------------------------------------------------------------------- parts

    def _rows(self, name: str, kind: str) -> Lazy:
        """Return a weight or a bias of the source; zeros for a bias that it does not have."""
        found = self.program.weights.get(f"{self.at}{name}.{kind}")
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
