"""A whole decoder: layers between an embedding and an output head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.spec.layer import Branch, Layer
    from kept.ir.spec.norm import Norm
    from kept.ir.spec.operation import Operation, StatePart
    from kept.ir.spec.rope import Rope

    Kind = TypeVar("Kind", bound=Operation)


@dataclass(frozen=True)
class Head:
    """The output projection, `softcap(multiplier * (W x + b))`; tied means that W is the embedding's own matrix.

    `normalised` divides each row of W by its length when the model runs.
    """

    tied: bool = False
    bias: bool = False
    multiplier: float = 1.0
    softcap: float | None = None
    normalised: bool = False


@dataclass(frozen=True)
class TokenIds:
    """Special token ids. They do not change the function, but generation needs them."""

    bos: int | None = None
    eos: int | tuple[int, ...] | None = None
    pad: int | None = None


@dataclass(frozen=True)
class Spec:
    """A whole decoder.

    `context` is the number of positions that it was trained for, `positions` the number of rows of a learned position
    table. `centred` states that every write to the residual stream has zero mean: a fact about the weights that passes
    establish and rely on. No checkpoint format records it, so it is lost on disk.
    """

    vocabulary: int
    width: int
    context: int
    layers: tuple[Layer, ...]
    final_norm: Norm
    head: Head = field(default_factory=Head)
    positions: int | None = None
    tokens: TokenIds = field(default_factory=TokenIds)
    embedding_multiplier: float = 1.0
    centred: bool = False

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.layers)

    def branches(self) -> Iterator[tuple[str, Branch]]:
        """Yield every branch of every layer with its layer's prefix, such as `layers.3.`, in order."""
        for i, layer in enumerate(self.layers):
            for branch in layer.branches:
                yield f"layers.{i}.", branch

    def operations(self, kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
        """Yield the operations of one kind with their prefix, such as `layers.3.mixer.`, in order."""
        for at, branch in self.branches():
            if isinstance(branch.op, kind):
                yield f"{at}{branch.name}.", branch.op

    def ropes(self) -> Iterator[Rope]:
        """Yield the rotary positions of every mixer."""
        for layer in self.layers:
            yield from () if layer.mixer is None else layer.mixer.ropes

    def states(self) -> Iterator[StatePart]:
        """Yield the parts of every mixer's decoding state, KV caches included."""
        for layer in self.layers:
            yield from () if layer.mixer is None else layer.mixer.state()
