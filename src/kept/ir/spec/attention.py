"""Softmax attention with grouped key-value heads."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from kept.ir.spec.operation import Cost, Mixer, StatePart
from kept.ir.spec.slot import Space, linear_slots, norm_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kept.ir.spec.norm import Norm
    from kept.ir.spec.rope import Rope
    from kept.ir.spec.slot import Slot


@dataclass(frozen=True)
class QkNorm:
    """A norm of queries and keys before rotation.

    shared: one gain of head size for all heads; own: a gain for each head; full: one norm over all heads at once.
    """

    norm: Norm
    scope: Literal["shared", "own", "full"] = "shared"


@dataclass(frozen=True)
class PositionScale:
    """A factor on queries that grows with their position p: 1 + beta ln(1 + floor(p / length)).

    It is 1 for the first `length` positions. Of Llama 4 (temperature tuning) and Ministral 3; the idea is that of
    arXiv 2501.19399.
    """

    beta: float
    length: int


def qk_shape(qk: QkNorm, heads: int, head_dim: int) -> tuple[int, ...]:
    """Return the shape of a query or key norm's gain."""
    return {"shared": (head_dim,), "own": (heads, head_dim), "full": (heads * head_dim,)}[qk.scope]


@dataclass(frozen=True)
class Attention(Mixer):
    """Softmax attention with grouped key-value heads (arXiv 2305.13245).

    `window` is the number of keys that a query sees, itself included; None: all. `scale` None means head_dim^-0.5.
    `softcap` c bounds the scores as `c tanh(score / c)`. `fused` stores query, key and value as one projection, in that
    order. `position_scale` multiplies rotated queries.
    """

    KIND: ClassVar[str] = "attention"

    heads: int
    kv_heads: int
    head_dim: int
    rope: Rope | None
    q_bias: bool = False
    k_bias: bool = False
    v_bias: bool = False
    o_bias: bool = False
    qk_norm: QkNorm | None = None
    window: int | None = None
    scale: float | None = None
    softcap: float | None = None
    fused: bool = False
    position_scale: PositionScale | None = None

    @property
    def query_size(self) -> int:
        """Elements of all queries of a token."""
        return self.heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Elements of all keys of a token, and of all values."""
        return self.kv_heads * self.head_dim

    def slots(self, width: int) -> Iterator[tuple[str, Slot]]:
        """Yield query, key, value (or all three fused), the gains and biases of their norms, and the output."""
        residual, queries, keys = (width, Space.RESIDUAL), (self.query_size, Space.QUERIES), (self.kv_size, Space.KEYS)
        if self.fused:
            fused = (self.query_size + 2 * self.kv_size, Space.FUSED)
            yield from linear_slots("qkv", fused, residual, bias=self.q_bias)
        else:
            yield from linear_slots("q", queries, residual, bias=self.q_bias)
            yield from linear_slots("k", keys, residual, bias=self.k_bias)
            yield from linear_slots("v", keys, residual, bias=self.v_bias)
        for name, norm, shape in self.norms():
            yield from norm_slots(name, norm, shape, Space.HEAD)
        yield from linear_slots("o", residual, queries, bias=self.o_bias)

    def norms(self) -> Iterator[tuple[str, Norm, tuple[int, ...]]]:
        """Yield the norm of the queries and that of the keys."""
        if self.qk_norm is not None:
            for name, heads in (("q_norm", self.heads), ("k_norm", self.kv_heads)):
                yield name, self.qk_norm.norm, qk_shape(self.qk_norm, heads, self.head_dim)

    @property
    def readers(self) -> tuple[str, ...]:
        """Query, key and value projections, or all three fused."""
        return ("qkv",) if self.fused else ("q", "k", "v")

    @property
    def writers(self) -> tuple[str, ...]:
        """The output projection."""
        return ("o",)

    def with_norms(self, change: Callable[[Norm], Norm]) -> Self:
        """Return the attention with the norm of queries and keys changed."""
        qk = self.qk_norm
        return self if qk is None else replace(self, qk_norm=replace(qk, norm=change(qk.norm)))

    def with_reader_biases(self) -> Self:
        """Return the attention with biases of query, key and value."""
        return replace(self, q_bias=True, k_bias=True, v_bias=True)

    def describe(self) -> str:
        """Return heads, biases, window, norms, scale and rotation in words."""
        shared = "" if self.kv_heads == self.heads else f" / {self.kv_heads} key-value"
        biased = "".join(name for name in "qkvo" if getattr(self, f"{name}_bias"))
        extras = (
            (f"biases {biased}", bool(biased)),
            ("fused qkv", self.fused),
            (f"window {self.window}", self.window is not None),
            ("query-key norm", self.qk_norm is not None),
            (f"scale {self.scale:g}" if self.scale else "", self.scale is not None),
            (f"scores capped at {self.softcap:g}" if self.softcap else "", self.softcap is not None),
            (f"queries scaled from position {self.position_scale.length}" if self.position_scale else "", True),
        )
        rotation = "no rotation" if self.rope is None else self.rope.describe(self.head_dim)
        inside = [*(word for word, has in extras if has and word), rotation]
        return f"attention {self.heads}{shared} heads x {self.head_dim} ({', '.join(inside)})"

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The rotation of queries and keys."""
        return () if self.rope is None else (self.rope,)

    def state(self) -> tuple[StatePart, ...]:
        """Return the KV cache."""
        return (StatePart(per_token=2 * self.kv_size, window=self.window),)

    def cost(self, width: int, length: int) -> Cost:
        """Return the cost per token. A pair of positions costs its score and the product with the value.

        A token sees half of `length` keys on average; with a window w below `length`, w keys once there are as many.
        The backward pass reads the queries, keys and values, the keys before rotation, and the output of attention.
        """
        matrices = sum(math.prod(slot.shape) for _, slot in self.slots(width) if slot.role == "matrix")
        window = min(length, self.window or length)
        pairs = window - window**2 / (2 * length)
        kept = 2 * self.query_size + 2 * self.kv_size
        return Cost(2.0 * matrices, 4.0 * self.query_size, pairs, kept, inputs=width)
