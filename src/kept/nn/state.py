"""Decoding state of a model: the position of the sequence, and a state for each layer's mixer.

Shapes: B batch, K key-value heads, T new tokens, S keys, E head size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

FIRST_ROOM = 64
"""Positions that the first allocation of a cache has room for."""


class MixerState(ABC):
    """Decoding state of one mixer. The mixer reads it and updates it in place."""

    @property
    @abstractmethod
    def elements(self) -> int:
        """Elements that the next step reads, of all sequences of the batch, without memory that is only reserved."""


@dataclass
class DecodeState:
    """The state of a batch of sequences while decoding.

    `position` counts the tokens that were read, padding included. `layers` has the state of each layer's mixer, None
    where a layer has no mixer.
    """

    layers: tuple[MixerState | None, ...]
    position: int = 0

    def advance(self, tokens: int) -> int:
        """Move the position past new tokens; returns the position before them."""
        past, self.position = self.position, self.position + tokens
        return past


def cached(past: int, window: int | None) -> int:
    """Return how many of `past` positions a KV cache keeps, for queries that see `window` keys (None: all)."""
    return past if window is None else min(past, window)


class KVCache(MixerState):
    """Keys and values of one attention layer, (B, K, S, E) each: of the last `window` positions (None: of all).

    Room is allocated ahead, so that a decoding step does not copy the past.
    """

    def __init__(self, window: int | None = None) -> None:
        self.window = window
        self._begin = self._end = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    @property
    def length(self) -> int:
        """Positions that are kept."""
        return cached(self._end - self._begin, self.window)

    @property
    def elements(self) -> int:
        """Elements of the keys and values that are kept."""
        per_position = sum(x[:, :, :1].numel() for x in (self._keys, self._values) if x is not None)
        return per_position * self.length

    def append(self, keys_BKTE: Tensor, values_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Append T positions; returns keys and values of the kept positions and the new ones, (B, K, S, E) each."""
        length, new = self.length, keys_BKTE.shape[2]
        # Autograd needs the tensors that earlier steps used as they were, so these are not written to again.
        if self._keys is None or keys_BKTE.requires_grad or self._end + new > self._keys.shape[2]:
            room = max(length + new, FIRST_ROOM, 2 * length)
            self._keys = _moved(self._keys, keys_BKTE, self._end - length, length, room)
            self._values = _moved(self._values, values_BKTE, self._end - length, length, room)
            self._end = length
        assert self._values is not None
        self._begin, self._end = self._end - length, self._end + new
        self._keys[:, :, self._end - new : self._end] = keys_BKTE
        self._values[:, :, self._end - new : self._end] = values_BKTE
        return self._keys[:, :, self._begin : self._end], self._values[:, :, self._begin : self._end]


def _moved(held: Tensor | None, like: Tensor, begin: int, length: int, room: int) -> Tensor:
    """A new tensor with room for `room` positions that begins with `length` held ones."""
    made = like.new_empty(like.shape[0], like.shape[1], room, like.shape[3])
    if held is not None:
        made[:, :, :length] = held[:, :, begin : begin + length]
    return made
