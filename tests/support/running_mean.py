"""A mixer of another kind than attention, for tests: the running mean of a projection of the residual stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import torch
from torch import Tensor, nn

from kept.ir.spec import Cost, Mixer, Space, StatePart
from kept.ir.spec.slot import linear_slots
from kept.nn.mixers.mixer import MixerModule
from kept.nn.sequence import SequenceContext, TableKeys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kept.ir.spec import Norm, Rope, Slot
    from kept.nn.state import MixerState


@dataclass(frozen=True)
class RunningMean(Mixer):
    """`out(mean over the past of value(x))`."""

    KIND: ClassVar[str] = "running_mean"

    size: int
    value_bias: bool = False

    def slots(self, width: int) -> Iterator[tuple[str, Slot]]:
        channels, residual = (self.size, Space.CHANNELS), (width, Space.RESIDUAL)
        yield from linear_slots("value", channels, residual, bias=self.value_bias)
        yield from linear_slots("out", residual, channels, bias=True)

    def norms(self) -> Iterator[tuple[str, Norm, tuple[int, ...]]]:
        yield from ()

    @property
    def readers(self) -> tuple[str, ...]:
        return ("value",)

    @property
    def writers(self) -> tuple[str, ...]:
        return ("out",)

    @property
    def ropes(self) -> tuple[Rope, ...]:
        return ()

    def with_norms(self, change: Callable[[Norm], Norm]) -> Self:  # noqa: ARG002
        return self

    def with_reader_biases(self) -> Self:
        return type(self)(self.size, value_bias=True)

    def describe(self) -> str:
        return f"running mean of {self.size}"

    def cost(self, width: int, length: int) -> Cost:  # noqa: ARG002
        return Cost(4.0 * width * self.size)

    def state(self) -> tuple[StatePart, ...]:
        return (StatePart(fixed=self.size, dtype="F32"),)


class RunningMeanModule(MixerModule[RunningMean]):
    """Without decoding."""

    def __init__(self, spec: RunningMean, width: int) -> None:
        super().__init__(spec, width)
        self.value = nn.Linear(width, spec.size, bias=spec.value_bias)
        self.out = nn.Linear(spec.size, width)

    @staticmethod
    def tables(spec: RunningMean) -> TableKeys:  # noqa: ARG004
        return TableKeys()

    def empty_state(self) -> MixerState:
        raise NotImplementedError

    def forward(self, x_BTD: Tensor, context: SequenceContext, state: MixerState | None = None) -> Tensor:  # noqa: ARG002
        steps = torch.arange(1, x_BTD.shape[1] + 1, dtype=x_BTD.dtype, device=x_BTD.device)
        mean: Tensor = self.out(self.value(x_BTD).cumsum(1) / steps[:, None])
        return mean
