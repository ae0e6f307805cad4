"""A weight's shape, the space of each axis, and its role.

Passes are written against spaces, roles and the readers and writers of the residual stream, not against names.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.spec.norm import Norm


class Space(StrEnum):
    """The thing that an axis of a weight indexes."""

    VOCABULARY = "vocabulary"
    POSITIONS = "positions"
    RESIDUAL = "residual"
    QUERIES = "query heads"
    KEYS = "key-value heads"
    FUSED = "fused heads"
    LATENT = "latent"
    CHANNELS = "channels"
    HEAD = "head"


Role = Literal["matrix", "bias", "gain", "conv", "scalar"]
"""The role of a weight: a matrix product, an addition, an elementwise gain, a convolution, or a parameter of a rule."""

Axis = tuple[int, Space]
"""A size and what it counts."""


@dataclass(frozen=True)
class Slot:
    """A weight's shape, the space of each axis, and its role."""

    shape: tuple[int, ...]
    axes: tuple[Space, ...]
    role: Role


Slots = dict[str, Slot]


def linear_slots(name: str, out: Axis, into: Axis, *, bias: bool) -> Iterator[tuple[str, Slot]]:
    """Yield the weight of a projection `W x + b`, shape (out, into), and its bias, if any."""
    yield f"{name}.weight", Slot((out[0], into[0]), (out[1], into[1]), "matrix")
    if bias:
        yield f"{name}.bias", Slot((out[0],), (out[1],), "bias")


def norm_slots(name: str, norm: Norm | None, shape: tuple[int, ...], space: Space) -> Iterator[tuple[str, Slot]]:
    """Yield the gain and the bias of a norm, those that it has."""
    axes = (space,) * len(shape)
    if norm is not None and norm.gain:
        yield f"{name}.gain", Slot(shape, axes, "gain")
    if norm is not None and norm.bias:
        yield f"{name}.bias", Slot(shape, axes, "bias")
