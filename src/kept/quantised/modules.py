"""The stored tensors of quantised modules, with the checks that all formats share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kept.errors import CheckpointError
from kept.ir.tensors import Stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from kept.families.config import Config
    from kept.ir.tensors import Lazy
    from kept.quantised.weight import QuantisedWeight

WAY_OUT = "use the unquantised checkpoint, or dequantise it with the library that wrote it"


@dataclass(frozen=True)
class Module:
    """The tensors of one module: `get("scales")` is the tensor `NAME.scales`."""

    name: str
    tensors: Mapping[str, Lazy]

    def get(self, part: str) -> Stored | None:
        """Return a stored tensor, None if there is none. Raises CheckpointError if its elements are not contiguous."""
        found = self.tensors.get(f"{self.name}.{part}")
        if found is None or isinstance(found, Stored):
            return found
        raise self.wrong(part, "is a view into another tensor; save the checkpoint as safetensors")

    def need(self, part: str, dtypes: tuple[str, ...], axes: int) -> Stored:
        """Return a stored tensor. Raises CheckpointError if it is missing, or of another dtype or number of axes."""
        found = self.get(part)
        if found is None:
            raise self.wrong(part, "is missing; fetch the checkpoint again")
        if found.dtype not in dtypes or len(found.shape) != axes:
            wanted = f"{' or '.join(dtypes)} with {axes} axes"
            raise self.wrong(part, f"is {found.dtype} of shape {list(found.shape)}, the format needs {wanted}")
        return found

    def wrong(self, part: str, what: str) -> CheckpointError:
        """Return an error that names a tensor of this module."""
        return CheckpointError(f"{self.name}.{part}: {what}")


@dataclass(frozen=True)
class MethodSettings:
    """The quantisation section of the config, and the dtype in which weights are declared."""

    config: Config
    dtype: str


@dataclass(frozen=True)
class Dequantised:
    """The weights of all quantised modules by name, the names of the tensors they replace, and notes for the user."""

    weights: Mapping[str, QuantisedWeight]
    replaced: frozenset[str]
    notes: tuple[str, ...] = field(default=())


def modules(tensors: Mapping[str, Lazy], marks: tuple[str, ...]) -> Iterator[Module]:
    """Yield the modules that store a tensor with one of these endings."""
    found = (name.removesuffix(f".{mark}") for name in tensors for mark in marks if name.endswith(f".{mark}"))
    yield from (Module(name, tensors) for name in dict.fromkeys(found))


def dequantised(
    found: Iterator[Module],
    read: Callable[[Module], QuantisedWeight],
    parts: tuple[str, ...],
    notes: tuple[str, ...] = (),
) -> Dequantised:
    """Return the weights that `read` makes. `parts` are the endings of the tensors that a weight replaces."""
    weights, replaced = {}, set[str]()
    for module in found:
        weights[f"{module.name}.weight"] = read(module)
        replaced.update(f"{module.name}.{part}" for part in parts)
    return Dequantised(weights, frozenset(replaced), notes)


def block_of(
    module: Module, part: str, shape: tuple[int, ...], grid: tuple[int, ...], stated: list[int] | None
) -> tuple[int, int]:
    """Return the rows and columns that share a value of `grid`. `stated` is the config's block, if it names one.

    Raises CheckpointError if the grid does not divide the matrix.
    """
    rows, columns = shape
    high, wide = (*grid, 1, 1)[:2]
    if stated is not None and (high, wide) == (math.ceil(rows / stated[0]), math.ceil(columns / stated[1])):
        return stated[0], stated[1]
    if len(grid) > 2 or high == 0 or wide == 0 or rows % high or columns % wide:
        raise module.wrong(part, f"has shape {list(grid)}, which does not divide a weight of shape {list(shape)}")
    return rows // high, columns // wide
