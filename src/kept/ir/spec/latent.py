"""Latent attention: keys and values are projections of one short vector for each token, which is all that is cached."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from kept.ir.spec.operation import Cost, Mixer, StatePart
from kept.ir.spec.slot import Space, linear_slots, norm_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kept.ir.spec.norm import Norm
    from kept.ir.spec.rope import Rope
    from kept.ir.spec.slot import Slot


@dataclass(frozen=True)
class LatentAttention(Mixer):
    """Multi-head latent attention with a decoupled rotary key (arXiv 2405.04434, section 2.1).

    `kv_a` projects a token to its latent, of `kv_rank` elements, and to one rotary key of `rope_dim` elements that all
    heads share. `kv_b` projects the latent to a key without position, of `nope_dim` elements, and a value of
    `value_dim` for each of `kv_heads` heads; `heads // kv_heads` query heads read one of them. A query has `nope_dim`
    and then `rope_dim` elements. With `q_rank`, queries are projected by way of a latent too, `q_b(q_norm(q_a x))`.

    `scale` None means (nope_dim + rope_dim)^-0.5. `q_bias` is that of `q`, or of `q_a` with a rank; `kv_bias` that of
    `kv_a`. `rope.dims` is `rope_dim`.
    """

    KIND: ClassVar[str] = "latent"

    heads: int
    kv_heads: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    kv_rank: int
    rope: Rope | None
    kv_norm: Norm | None
    q_rank: int | None = None
    q_norm: Norm | None = None
    q_bias: bool = False
    kv_bias: bool = False
    o_bias: bool = False
    scale: float | None = None

    @property
    def query_dim(self) -> int:
        """Elements of the query of one head."""
        return self.nope_dim + self.rope_dim

    @property
    def cached_size(self) -> int:
        """Elements that are cached for each token: latent and rotary key."""
        return self.kv_rank + self.rope_dim

    def slots(self, width: int) -> Iterator[tuple[str, Slot]]:
        """Yield the projections of queries, of latent and rotary key, of keys and values, and the output."""
        residual, queries = (width, Space.RESIDUAL), (self.heads * self.query_dim, Space.QUERIES)
        if self.q_rank is None:
            yield from linear_slots("q", queries, residual, bias=self.q_bias)
        else:
            yield from linear_slots("q_a", (self.q_rank, Space.LATENT), residual, bias=self.q_bias)
            yield from norm_slots("q_norm", self.q_norm, (self.q_rank,), Space.LATENT)
            yield from linear_slots("q_b", queries, (self.q_rank, Space.LATENT), bias=False)
        yield from linear_slots("kv_a", (self.cached_size, Space.LATENT), residual, bias=self.kv_bias)
        yield from norm_slots("kv_norm", self.kv_norm, (self.kv_rank,), Space.LATENT)
        keys_and_values = self.kv_heads * (self.nope_dim + self.value_dim), Space.KEYS
        yield from linear_slots("kv_b", keys_and_values, (self.kv_rank, Space.LATENT), bias=False)
        yield from linear_slots("o", residual, (self.heads * self.value_dim, Space.QUERIES), bias=self.o_bias)

    def norms(self) -> Iterator[tuple[str, Norm, tuple[int, ...]]]:
        """Yield the norms of the latents of queries and of keys and values, those that there are."""
        for name, norm, rank in (("q_norm", self.q_norm, self.q_rank), ("kv_norm", self.kv_norm, self.kv_rank)):
            if norm is not None and rank is not None:
                yield name, norm, (rank,)

    @property
    def readers(self) -> tuple[str, ...]:
        """The projections of queries, or of their latent, and of the latent of keys and values."""
        return ("q" if self.q_rank is None else "q_a", "kv_a")

    @property
    def writers(self) -> tuple[str, ...]:
        """The output projection."""
        return ("o",)

    @property
    def read_in_parts(self) -> tuple[str, ...]:
        """The projection from the latent, whose weight decoding applies to queries and to mixed latents."""
        return ("kv_b",)

    def with_norms(self, change: Callable[[Norm], Norm]) -> Self:
        """Return the attention with the norms of its latents changed."""
        q_norm, kv_norm = (None if norm is None else change(norm) for norm in (self.q_norm, self.kv_norm))
        return replace(self, q_norm=q_norm, kv_norm=kv_norm)

    def with_reader_biases(self) -> Self:
        """Return the attention with biases of its projections of the residual stream."""
        return replace(self, q_bias=True, kv_bias=True)

    def describe(self) -> str:
        """Return heads, ranks, biases and rotation in words."""
        shared = "" if self.kv_heads == self.heads else f" / {self.kv_heads} key-value"
        biased = [name for name in ("q", "kv", "o") if getattr(self, f"{name}_bias")]
        extras = (
            (f"query rank {self.q_rank}", self.q_rank is not None),
            (f"biases {' '.join(biased)}", bool(biased)),
            ("no norm of the latent", self.kv_norm is None),
            (f"scale {self.scale:g}" if self.scale else "", self.scale is not None),
        )
        rotation = "no rotation" if self.rope is None else self.rope.describe(self.rope_dim)
        inside = [
            f"rank {self.kv_rank}",
            f"rotary key {self.rope_dim}",
            *(word for word, has in extras if has),
            rotation,
        ]
        return f"latent attention {self.heads}{shared} heads x {self.query_dim} ({', '.join(inside)})"

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """The rotation of the rotary parts of queries and keys."""
        return () if self.rope is None else (self.rope,)

    def state(self) -> tuple[StatePart, ...]:
        """Return the cache of latents and rotary keys."""
        return (StatePart(per_token=self.cached_size),)

    def cost(self, width: int, length: int) -> Cost:
        """Return the cost per token of the form that expands keys and values, which trains and reads prompts.

        The backward pass reads queries, latents, keys, values and the output of attention.
        """
        matrices = sum(math.prod(slot.shape) for _, slot in self.slots(width) if slot.role == "matrix")
        kept = self.heads * (self.query_dim + self.value_dim) + 2 * self.cached_size + (self.q_rank or 0)
        kept += self.kv_heads * (self.query_dim + self.value_dim)
        score_flops = 2.0 * self.heads * (self.query_dim + self.value_dim)
        return Cost(2.0 * matrices, score_flops, length / 2, kept, inputs=width)
