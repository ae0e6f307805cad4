"""The one value that flows: an architecture and its weights."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from kept.errors import CheckpointError
from kept.ir.slots import slots
from kept.ir.tensors import DTYPE_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.ir.spec import Spec
    from kept.ir.tensors import Lazy

CONTEXTS = (1024, 8192)
"""Tokens of a sequence at which the KV cache is stated, besides the model's full context."""


@dataclass(frozen=True)
class Program:
    """A spec and a lazy tensor for each of its slots. Immutable: passes return new programs.

    Raises CheckpointError at construction where weights and spec disagree, naming the weight and both shapes.
    """

    spec: Spec
    weights: Mapping[str, Lazy]

    def __post_init__(self) -> None:
        """Check that the weights are exactly the slots."""
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))
        wanted = slots(self.spec)
        for name, slot in wanted.items():
            if name not in self.weights:
                raise CheckpointError(f"{name}: the architecture needs it and there is no such tensor")
            if self.weights[name].shape != slot.shape:
                found, needs = list(self.weights[name].shape), list(slot.shape)
                raise CheckpointError(f"{name}: has shape {found}, the config asks for {needs}")
        extra = next((name for name in self.weights if name not in wanted), None)
        if extra is not None:
            raise CheckpointError(f"{extra}: the architecture has no place for this tensor")

    @property
    def dtype(self) -> str:
        """The dtype that most bytes of the weights have."""
        totals: dict[str, int] = {}
        for tensor in self.weights.values():
            totals[tensor.dtype] = totals.get(tensor.dtype, 0) + tensor.nbytes
        return max(totals, key=totals.__getitem__)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        total = 0
        for slot in slots(self.spec).values():
            count = 1
            for size in slot.shape:
                count *= size
            total += count
        return total

    @property
    def nbytes(self) -> int:
        """Bytes of all weights when written."""
        return sum(tensor.nbytes for tensor in self.weights.values())

    def state_bytes(self, context: int) -> int:
        """Bytes of the decoding state of one sequence of `context` tokens, for a model in the weights' dtype."""
        own = self.dtype
        return sum(part.elements(context) * DTYPE_BYTES[part.dtype or own] for part in self.spec.states())

    @property
    def kv_cache(self) -> dict[int, int]:
        """Bytes of the decoding state at 1,024 and 8,192 tokens and at the model's full context, by tokens."""
        full = self.spec.context
        return {context: self.state_bytes(context) for context in (*(n for n in CONTEXTS if n < full), full)}

    def updated(self, spec: Spec, changed: Mapping[str, Lazy]) -> Program:
        """A program with another spec, the changed weights, and the rest as far as the spec still has it."""
        kept = {**self.weights, **changed}
        return replace(self, spec=spec, weights={name: kept[name] for name in slots(spec) if name in kept})
