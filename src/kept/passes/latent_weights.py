"""The weights of the latent attention that has the function of an attention, made of the source's rows."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from kept.ir.tensors import Full, Lazy, OneHot, join, take_rows, zeros
from kept.passes.algebra import permuted_rows, scaled
from kept.passes.full_rotary import rotated_span
from kept.passes.latent_norm import GAIN, constant_coordinates
from kept.passes.latent_spec import head_sizes, query_factor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kept.ir.program import Program
    from kept.ir.spec import Attention, LatentAttention
    from kept.passes.latent_spec import HeadSizes

    Columns = Sequence[int | None]


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
        constants = constant_coordinates(self.sizes.values)
        yield "kv_a.weight", join([*self._latent("weight"), self._none(len(constants)), *self._rotary_key("weight")])
        yield "kv_a.bias", join([*self._latent("bias"), *self._constants(constants), *self._rotary_key("bias")])
        yield "kv_norm.gain", self._gain(self.sizes.values, constants)
        yield "kv_b.weight", self._selection(self._up_columns(), self.after.kv_rank)
        if self.after.q_rank is None:
            yield "q.weight", self._placed(self._scaled_queries("weight"), self._query_columns())
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

    def _up_columns(self) -> Columns:
        """Return the element of the latent that each element of the heads' unrotated keys and values is."""
        size, still, columns = self.one.head_dim, self.sizes.still, list[int | None]()
        for head in range(self.one.heads):
            first = self.one.kv_heads * size + self._group(head) * still
            columns += [*range(first, first + still), *[None] * (self.sizes.nope - still)]
            columns += [*range(self._group(head) * size, (self._group(head) + 1) * size)]
        return columns

    # --------------------------------------------------------------------------------------------------------- queries

    def _query_columns(self) -> Columns:
        """Return the source's query element that each element of the queries is; None for zeros.

        A query has its unrotated elements, zeros, and the two members of its pairs in the place of its key-value head.
        """
        sizes, half, columns = self.sizes, self.sizes.turning // 2, list[int | None]()
        for head in range(self.one.heads):
            start, group = head * self.one.head_dim, self._group(head)
            columns += [*range(start + sizes.turning, start + self.one.head_dim), *[None] * (sizes.nope - sizes.still)]
            for member in range(2):
                own = range(start + member * half, start + (member + 1) * half)
                columns += [*[None] * (group * half), *own, *[None] * ((self.one.kv_heads - 1 - group) * half)]
        return columns

    def _queries_by_latent(self, rank: int) -> Iterator[tuple[str, Lazy]]:
        """Yield the projections of queries with a bias: a latent of all queries, and a selection of its elements."""
        constants = constant_coordinates(self.one.query_size)
        yield "q_a.weight", join([self._scaled_queries("weight"), self._none(len(constants))])
        yield "q_a.bias", join([self._scaled_queries("bias"), *self._constants(constants)])
        yield "q_norm.gain", self._gain(self.one.query_size, constants)
        yield "q_b.weight", self._selection(self._query_columns(), rank)

    def _scaled_queries(self, kind: str) -> Lazy:
        queries, factor = self._ordered("q", kind), query_factor(self.one, self.after.query_dim)
        return queries if factor == 1 else scaled(queries, factor)

    # ----------------------------------------------------------------------------------------------------------- parts

    def _group(self, head: int) -> int:
        """Return the key-value head that a query head reads."""
        return head * self.one.kv_heads // self.one.heads

    def _rows(self, name: str, kind: str) -> Lazy:
        """Return a weight or a bias of the source; zeros for a bias that it does not have."""
        found = self.program.weights.get(f"{self.at}{name}.{kind}")
        if found is not None:
            return found
        return zeros((self.one.query_size if name == "q" else self.one.kv_size,), self.dtype)

    def _ordered(self, name: str, kind: str) -> Lazy:
        """Return queries or keys with the first members of each head's pairs first, then the second, then the rest."""
        size, rows, order = self.one.head_dim, self._rows(name, kind), pair_order(self.one)
        if order == tuple(range(size)):
            return rows
        heads = rows.shape[0] // size
        return permuted_rows(rows, tuple(head * size + old for head in range(heads) for old in order))

    def _placed(self, rows: Lazy, columns: Columns) -> Lazy:
        """Return the rows of a weight in these places, and zeros where there is none."""
        runs: list[Lazy] = []
        for _, run in groupby(enumerate(columns), key=lambda place: None if place[1] is None else place[1] - place[0]):
            taken = [column for _, column in run]
            first = taken[0]
            runs.append(self._none(len(taken)) if first is None else take_rows(rows, first, first + len(taken)))
        return join(runs)

    def _selection(self, columns: Columns, rank: int) -> Lazy:
        return OneHot((len(columns), rank), self.dtype, tuple(columns))

    def _gain(self, used: int, constants: Sequence[float]) -> Lazy:
        return join([Full((used,), self.dtype, GAIN), self._zeros(len(constants))])

    def _constants(self, constants: Sequence[float]) -> Iterator[Lazy]:
        return (Full((1,), self.dtype, value) for value in constants)

    def _zeros(self, size: int) -> Lazy:
        return zeros((size,), self.dtype)

    def _none(self, rows: int) -> Lazy:
        return zeros((rows, self._rows("v", "weight").shape[1]), self.dtype)


def pair_order(one: Attention) -> tuple[int, ...]:
    """Return for each new dimension of a head its old index: both members of rotated pairs, then the rest."""
    rope = one.rope
    assert rope is not None
    half, turning = rotated_span(rope, one.head_dim) // 2, range(rope.dims // 2)
    firsts = [2 * pair if rope.interleaved else pair for pair in turning]
    seconds = [first + (1 if rope.interleaved else half) for first in firsts]
    rest = sorted({*range(one.head_dim)} - {*firsts, *seconds})
    return (*firsts, *seconds, *rest)
