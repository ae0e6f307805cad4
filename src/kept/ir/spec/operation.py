"""Base classes of branch operations: weights, norms, projections on the residual stream, cost, state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kept.ir.spec.norm import Norm
    from kept.ir.spec.rope import Rope
    from kept.ir.spec.slot import Slot


@dataclass(frozen=True)
class StatePart:
    """Elements of one dtype that a mixer keeps for each sequence while decoding.

    `fixed` does not depend on the length. `per_token` is kept for each of the last `window` tokens (None: for all).
    `dtype` is a safetensors name (`F32`); None: that of the activations.
    """

    fixed: int = 0
    per_token: int = 0
    window: int | None = None
    dtype: str | None = None

    def elements(self, context: int) -> int:
        """Return the number of elements after `context` tokens."""
        return self.fixed + self.per_token * (context if self.window is None else min(context, self.window))


@dataclass(frozen=True)
class Cost:
    """Arithmetic and memory of an operation for one token.

    `flops` counts two for each multiply-add of the projections. `score_flops` counts those of one pair of positions,
    `pairs` the mean number of positions that a token is paired with. `kept_values` are the elements that the backward
    pass reads; `inputs` are further ones that it reads if the operation's matrices are trainable. `peak_values` is the
    largest number of elements that exist only within the operation.
    """

    flops: float
    score_flops: float = 0.0
    pairs: float = 0.0
    kept_values: int = 0
    inputs: int = 0
    peak_values: int = 0

    @property
    def total_flops(self) -> float:
        """Floating-point operations of the forward pass for one token."""
        return self.flops + self.score_flops * self.pairs


class Operation(ABC):
    """The operation of one branch of a layer: a frozen dataclass that declares what it needs.

    Names are relative to the branch: `q.weight` is stored as `layers.3.mixer.q.weight`.
    """

    KIND: ClassVar[str]
    """The kind's name in facts and JSON, unique among operations."""

    @abstractmethod
    def slots(self, width: int) -> Iterator[tuple[str, Slot]]:
        """Yield every weight, in the order in which the operation uses them; `width` is the residual stream's."""

    @abstractmethod
    def norms(self) -> Iterator[tuple[str, Norm, tuple[int, ...]]]:
        """Yield each norm inside the operation: name, norm, shape of its gain."""

    @property
    @abstractmethod
    def readers(self) -> tuple[str, ...]:
        """The projections that read the residual stream, as the norm before the branch outputs it."""

    @property
    @abstractmethod
    def writers(self) -> tuple[str, ...]:
        """The projections whose output is added to the residual stream."""

    @property
    def read_in_parts(self) -> tuple[str, ...]:
        """The projections whose weight the module also uses otherwise than in one product. LoRA cannot adapt them."""
        return ()

    @abstractmethod
    def with_norms(self, change: Callable[[Norm], Norm]) -> Self:
        """Return the operation with every norm inside it changed."""

    @abstractmethod
    def with_reader_biases(self) -> Self | None:
        """Return the operation with a bias in every projection that reads the residual stream; None if one has none."""

    @abstractmethod
    def describe(self) -> str:
        """Return the operation in words, as one phrase of a line about its layer."""

    @abstractmethod
    def cost(self, width: int, length: int) -> Cost:
        """Return the cost per token in sequences of `length` tokens."""


class FeedForward(Operation):
    """An operation on each token alone: the MLP of a layer."""


class Mixer(Operation):
    """An operation that mixes tokens along the sequence, and keeps a state while decoding."""

    @property
    @abstractmethod
    def ropes(self) -> tuple[Rope, ...]:
        """The rotary positions that it applies; empty if it applies none."""

    @abstractmethod
    def state(self) -> tuple[StatePart, ...]:
        """Return the parts of the decoding state of one sequence."""
