"""A dequantised weight as a lazy tensor: (code - zero) x scale, a block of rows at a time.

Values are computed in float32, as the libraries that write these formats compute them, and are rounded once when they
are written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.errors import CheckpointError
from kept.ir.tensors import InFile
from kept.quantised.raw import numbers, raw

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from kept.ir.tensors import Precision, Stored

    Rows = Callable[[int, int], torch.Tensor]
    """Returns the rows from start to stop, in float32."""


@dataclass(frozen=True)
class QuantisedWeight(InFile, ABC):
    """A weight whose values are computed from the tensors that a quantised module stores.

    `kind` describes the format for records and messages. `file` and `offset` are those of the codes.
    """

    kind: str

    @abstractmethod
    def decoder(self) -> Rows:
        """Return a function of rows. What all rows need, such as scales, is read here, once."""

    def rows(self, start: int, stop: int, precision: Precision) -> torch.Tensor:
        """Return rows start to stop. Raises CheckpointError if the file is shorter than its header says."""
        return self.reader(precision)(start, stop)

    def reader(self, precision: Precision) -> Rows:
        """Return a function of rows in the working precision."""
        import torch  # noqa: PLC0415 - planning needs no torch

        read, dtype = self.decoder(), getattr(torch, precision)
        return lambda start, stop: read(start, stop).to(dtype)


class Codes(ABC):
    """The codes of a matrix before zero points and scales apply."""

    @abstractmethod
    def decoder(self) -> Rows:
        """Return a function of rows."""


@dataclass(frozen=True)
class PlainCodes(Codes):
    """Codes that are stored one by one: int8 or float8."""

    tensor: Stored

    def decoder(self) -> Rows:
        """Return rows as they are stored, as float32."""
        return lambda start, stop: raw(self.tensor, start, stop).float()


class Values(ABC):
    """One value for each block of a matrix: scales or zero points."""

    @abstractmethod
    def matrix(self) -> torch.Tensor:
        """Return the values as float32, of shape (blocks of rows, blocks of columns)."""


@dataclass(frozen=True)
class PlainValues(Values):
    """Values that are stored one by one. `divisor` is a stored number that they are divided by."""

    tensor: Stored
    divisor: Stored | None = None

    def matrix(self) -> torch.Tensor:
        """Return the stored values; a single number, or a column for one value per row."""
        found = numbers(self.tensor)
        if self.divisor is not None:
            found = found / numbers(self.divisor).reshape(())
        return found.reshape(*found.shape, *[1] * (2 - found.ndim))


@dataclass(frozen=True)
class Scaled(QuantisedWeight):
    """(code - zero) x scale x factor.

    `block` is the number of rows and of columns that share a scale. `groups` is a stored vector that names the block of
    each column instead, as act-order needs it.
    """

    codes: Codes
    scale: Values
    block: tuple[int, int]
    zero: Values | None = None
    groups: Stored | None = None
    factor: float = 1.0

    def decoder(self) -> Rows:
        """Return a function of rows. Scales and zero points are read here."""
        import torch  # noqa: PLC0415 - planning needs no torch

        high, wide = self.block
        codes, scale = self.codes.decoder(), self.scale.matrix()
        columns = torch.arange(self.shape[1]) // wide if self.groups is None else self._ordered(scale.shape[1])
        zero = None if self.zero is None else self.zero.matrix()

        def spread(values: torch.Tensor, start: int, stop: int) -> torch.Tensor:
            rows = values[torch.arange(start, stop) // high]
            return rows if rows.shape[1] == 1 else rows[:, columns]

        def rows(start: int, stop: int) -> torch.Tensor:
            found = codes(start, stop)
            if zero is not None:
                found = found - spread(zero, start, stop)
            return found * spread(scale, start, stop) * self.factor

        return rows

    def _ordered(self, count: int) -> torch.Tensor:
        """Return the block of each column from `groups`. Raises CheckpointError for a block that does not exist."""
        assert self.groups is not None
        found = raw(self.groups).long()
        if bool(((found < 0) | (found >= count)).any()):
            raise CheckpointError(
                f"{self.file.name}: a g_idx names a group outside of 0 to {count - 1}; fetch it again"
            )
        return found
