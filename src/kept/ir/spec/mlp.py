"""The per-token MLP, gated or plain."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from kept.ir.spec.operation import Cost, FeedForward
from kept.ir.spec.slot import Space, linear_slots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kept.ir.spec.norm import Norm
    from kept.ir.spec.slot import Slot

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]


@dataclass(frozen=True)
class Mlp(FeedForward):
    """`down(act(gate x) * up x)` when gated, `down(act(up x))` when not.

    `fused` stores gate and up as one projection, in that order.
    """

    KIND: ClassVar[str] = "dense"

    size: int
    activation: Activation
    gated: bool = True
    gate_bias: bool = False
    up_bias: bool = False
    down_bias: bool = False
    fused: bool = False

    def slots(self, width: int) -> Iterator[tuple[str, Slot]]:
        """Yield gate, up (or both fused) and down."""
        channels, residual = (self.size, Space.CHANNELS), (width, Space.RESIDUAL)
        if self.gated and self.fused:
            yield from linear_slots("gate_up", (2 * self.size, Space.CHANNELS), residual, bias=self.up_bias)
        else:
            if self.gated:
                yield from linear_slots("gate", channels, residual, bias=self.gate_bias)
            yield from linear_slots("up", channels, residual, bias=self.up_bias)
        yield from linear_slots("down", residual, channels, bias=self.down_bias)

    def norms(self) -> Iterator[tuple[str, Norm, tuple[int, ...]]]:
        """Yield nothing: there is no norm inside."""
        yield from ()

    @property
    def readers(self) -> tuple[str, ...]:
        """Gate and up, or both fused."""
        if not self.gated:
            return ("up",)
        return ("gate_up",) if self.fused else ("gate", "up")

    @property
    def writers(self) -> tuple[str, ...]:
        """The down projection."""
        return ("down",)

    def with_norms(self, change: Callable[[Norm], Norm]) -> Self:  # noqa: ARG002 - there is none
        """Return the MLP itself."""
        return self

    def with_reader_biases(self) -> Self:
        """Return the MLP with biases of gate and up."""
        return replace(self, gate_bias=self.gated, up_bias=True)

    def describe(self) -> str:
        """Return form, activation, size and biases in words."""
        names = ("gate", "up", "down") if self.gated else ("up", "down")
        biased = [name for name in names if getattr(self, f"{name}_bias")]
        bias = f" (biases {' '.join(biased)})" if biased else ""
        return f"{'gated' if self.gated else 'plain'} {self.activation} MLP {self.size}{bias}"

    def cost(self, width: int, length: int) -> Cost:  # noqa: ARG002 - a token's cost does not depend on the length
        """Return the cost per token. The backward pass reads three values per channel, or one of a plain MLP."""
        matrices = sum(math.prod(slot.shape) for _, slot in self.slots(width) if slot.role == "matrix")
        kept = (3 if self.gated else 1) * self.size
        return Cost(2.0 * matrices, kept_values=kept, inputs=width + self.size, peak_values=2 * self.size)
