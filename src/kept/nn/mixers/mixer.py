"""Base class of the modules of all mixers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import Tensor, nn

from kept.ir.spec import Mixer

if TYPE_CHECKING:
    from kept.nn.sequence import SequenceContext, TableKeys
    from kept.nn.state import MixerState

Kind = TypeVar("Kind", bound=Mixer)


class MixerModule(nn.Module, ABC, Generic[Kind]):
    """A mixer of one kind, made from its spec and the width of the residual stream.

    Reading a sequence at once, in pieces with a state, padded on the left or packed with others gives the same output.
    A projection that is an `nn.Linear` is only called: verification replaces it by one whose weight stays in its
    file. A weight that is used in another way is a parameter of the module.
    """

    def __init__(self, spec: Kind, width: int) -> None:
        super().__init__()
        self.spec, self.width = spec, width

    @staticmethod
    @abstractmethod
    def tables(spec: Kind) -> TableKeys:
        """Return the tables that the forward pass looks up in its context."""

    @abstractmethod
    def empty_state(self) -> MixerState:
        """Return the decoding state before the first token, for any batch size, dtype and device."""

    @abstractmethod
    def forward(self, x_BTD: Tensor, context: SequenceContext, state: MixerState | None = None) -> Tensor:
        """Mix (B, T, D) along the sequence; returns (B, T, D). A state is read, and updated with the new tokens."""
