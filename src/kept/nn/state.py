"""Decoding state of a model: the position of the sequence, and a state for each layer's mixer.

Shapes: B batch, K key-value heads, T new tokens, S keys, E head size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kept.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    BatchChange = Callable[[Tensor], Tensor]

SPARE_SHARE, LEAST_SPARE = 64, 16
"""A cache that grows has room for a 64th more positions than it holds, and for 16 at least."""


class MixerState(ABC):
    """Decoding state of one mixer. The mixer reads it and updates it in place."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that are allocated, of all sequences of the batch, room for further tokens included."""

    @property
    @abstractmethod
    def can_crop(self) -> bool:
        """Whether `crop` succeeds for every length."""

    @abstractmethod
    def change_batch(self, change: BatchChange) -> None:
        """Replace each tensor by `change` of it, which selects or repeats sequences along the first axis."""

    @abstractmethod
    def crop(self, length: int) -> None:
        """Forget what was read past `length` tokens. Raises InputError if the state before them is not known."""


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

    @property
    def can_crop(self) -> bool:
        """Whether `crop` succeeds for every length."""
        return all(layer.can_crop for layer in self.layers if layer is not None)

    def change_batch(self, change: BatchChange) -> None:
        """Select or repeat sequences in every layer (see `MixerState`)."""
        for layer in self.layers:
            if layer is not None:
                layer.change_batch(change)

    def crop(self, length: int) -> None:
        """Forget what was read past `length` tokens. Raises InputError if a layer no longer has that state."""
        for layer in self.layers:
            if layer is not None:
                layer.crop(length)
        self.position = min(self.position, length)


def cached(past: int, window: int | None) -> int:
    """Return how many of `past` positions a KV cache keeps, for queries that see `window` keys (None: all)."""
    return past if window is None else min(past, window)


def key_positions(past: int, new: int, window: int | None, device: torch.device) -> Tensor:
    """Return the positions (S,) of the keys that a KV cache returns when `new` tokens follow `past` ones."""
    if _is_read_in_place(past, new, window):
        return _slot_positions(past + new, window, device)
    return torch.cat((_slot_positions(past, window, device), torch.arange(past, past + new, device=device)))


def _is_read_in_place(past: int, new: int, window: int | None) -> bool:
    """Whether no new key takes the slot of a key that one of the new tokens sees."""
    return window is None or new == 1 or past + new <= window


def _slot_positions(length: int, window: int | None, device: torch.device) -> Tensor:
    """Return the position that each slot holds after `length` tokens: the last one that is its number mod `window`."""
    slots_S = torch.arange(cached(length, window), device=device)
    return slots_S if window is None else slots_S + (length - 1 - slots_S) // window * window


class KVCache(MixerState):
    """Keys and values of one attention layer, (B, K, S, E) each: of the last `window` positions (None: of all)."""

    def __init__(self, window: int | None = None) -> None:
        self._keys, self._values = RollingBuffer(window), RollingBuffer(window)

    @property
    def nbytes(self) -> int:
        """Bytes of both buffers."""
        return self._keys.nbytes + self._values.nbytes

    @property
    def can_crop(self) -> bool:
        """Whether all positions are kept."""
        return self._keys.can_crop

    def change_batch(self, change: BatchChange) -> None:
        """Change the batch of both buffers."""
        self._keys.change_batch(change)
        self._values.change_batch(change)

    def crop(self, length: int) -> None:
        """Keep the first `length` positions. Raises InputError if the window has left some of them behind."""
        self._keys.crop(length)
        self._values.crop(length)

    def append(self, keys_BKTE: Tensor, values_BKTE: Tensor) -> tuple[Tensor, Tensor]:
        """Append T positions; returns keys and values of the kept positions and the new ones, (B, K, S, E) each.

        `key_positions` tells their order.
        """
        return self._keys.append(keys_BKTE), self._values.append(values_BKTE)


class LatentCache(MixerState):
    """Latents and rotary keys of one layer with latent attention, side by side as (B, 1, S, latent + rotary)."""

    def __init__(self) -> None:
        self._rows = RollingBuffer(None)

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return self._rows.nbytes

    @property
    def can_crop(self) -> bool:
        """True: all positions are kept."""
        return True

    def change_batch(self, change: BatchChange) -> None:
        """Change the batch of the buffer."""
        self._rows.change_batch(change)

    def crop(self, length: int) -> None:
        """Keep the first `length` positions."""
        self._rows.crop(length)

    def append(self, x_B1TE: Tensor) -> Tensor:
        """Append T positions; returns all positions, (B, 1, S, E)."""
        return self._rows.append(x_B1TE)


class RollingBuffer:
    """A tensor (B, K, S, E) of the last `window` positions (None: of all). Position p is in slot p mod `window`.

    Room is allocated ahead, so that a decoding step does not copy the past.
    """

    def __init__(self, window: int | None) -> None:
        self.window, self.length = window, 0
        self._slots: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Bytes that are allocated."""
        return 0 if self._slots is None else self._slots.nbytes

    @property
    def can_crop(self) -> bool:
        """Whether all positions are kept."""
        return self.window is None

    def append(self, x_BKTE: Tensor) -> Tensor:
        """Append T positions; returns the kept positions and the new ones, (B, K, S, E)."""
        past, new = self.length, x_BKTE.shape[2]
        slots = self._with_room(x_BKTE)
        if _is_read_in_place(past, new, self.window):
            self._write(slots, x_BKTE)
            return slots[:, :, : cached(self.length, self.window)]
        seen = torch.cat((slots[:, :, : cached(past, self.window)], x_BKTE), dim=2)
        self._write(slots, x_BKTE)
        return seen

    def change_batch(self, change: BatchChange) -> None:
        """Replace the slots by `change` of them."""
        if self._slots is not None:
            self._slots = change(self._slots)

    def crop(self, length: int) -> None:
        """Keep the first `length` positions. Raises InputError if the window has left some of them behind."""
        if self.window is not None and self.length > self.window and 0 < length < self.length:
            raise InputError(
                f"a cache of the last {self.window} positions has read {self.length} and cannot go back to {length}; "
                "generate without an assistant model"
            )
        self.length = min(self.length, length)

    def _write(self, slots: Tensor, x_BKTE: Tensor) -> None:
        """Write the last positions into their slots, around the end of the buffer if need be."""
        self.length += x_BKTE.shape[2]
        size = self.length if self.window is None else self.window
        last = x_BKTE[:, :, -size:]
        begin = (self.length - last.shape[2]) % size
        before_end = size - begin
        slots[:, :, begin : begin + last.shape[2]] = last[:, :, :before_end]
        if last.shape[2] > before_end:
            slots[:, :, : last.shape[2] - before_end] = last[:, :, before_end:]

    def _with_room(self, x_BKTE: Tensor) -> Tensor:
        """Return the slots with room for T further positions, in a new tensor if there is none or autograd needs it."""
        held, needed = self._slots, cached(self.length + x_BKTE.shape[2], self.window)
        # Autograd needs the tensors that earlier steps used as they were, so these are not written to again.
        if held is None or needed > held.shape[2] or x_BKTE.requires_grad or held.requires_grad:
            room = cached(needed + max(needed // SPARE_SHARE, LEAST_SPARE), self.window)
            self._slots = x_BKTE.new_empty(*x_BKTE.shape[:2], room, x_BKTE.shape[3])
            if held is not None:
                kept = cached(self.length, self.window)
                self._slots[:, :, :kept] = held[:, :, :kept]
        assert self._slots is not None
        return self._slots
