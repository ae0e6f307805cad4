"""The key-value cache: grows by doubling, so that appending a token is not copying the past."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class KVCache:
    """Keys and values of one layer, (B, K, S, E) each, as many positions as were appended."""

    def __init__(self) -> None:
        self.length = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None

    def append(self, keys_BKTE: Tensor, values_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Append T positions; returns views of all keys and all values so far."""
        end = self.length + keys_BKTE.shape[2]
        self._keys = _room(self._keys, keys_BKTE, end)
        self._values = _room(self._values, values_BKTE, end)
        self._keys[:, :, self.length : end] = keys_BKTE
        self._values[:, :, self.length : end] = values_BKTE
        self.length = end
        return self._keys[:, :, :end], self._values[:, :, :end]


class DecodeState:
    """One `KVCache` a layer."""

    def __init__(self, depth: int) -> None:
        self.layers = [KVCache() for _ in range(depth)]

    @property
    def length(self) -> int:
        """Positions that every layer has seen."""
        return self.layers[0].length if self.layers else 0


def _room(held: Tensor | None, like: Tensor, end: int) -> Tensor:
    if held is not None and held.shape[2] >= end:
        return held
    grown = like.new_empty(
        like.shape[0], like.shape[1], max(end, 64, 2 * (0 if held is None else held.shape[2])), like.shape[3]
    )
    if held is not None:
        grown[:, :, : held.shape[2]] = held
    return grown
