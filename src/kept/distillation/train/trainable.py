"""The trainable parameters of a student, and the memory that training them takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kept.distillation.train.parametrisation import PLAIN
from kept.ir.tensors import join, take_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from kept.distillation.train.lora import Lora
    from kept.distillation.train.parametrisation import Parametrisation
    from kept.ir.program import Program
    from kept.ir.tensors import Lazy

MASTER, MOMENTS, GRADIENT = 4, 8, 4
"""Bytes for each trainable parameter: itself in float32, AdamW's two moments, and its gradient."""


@dataclass(frozen=True)
class Trainable:
    """The trainable slots, the number of trainable parameters, and the number of all (`of`).

    `lora` has the matrices with low-rank updates. `rows` are the slots of which only some rows are trainable, and these
    rows. Their other rows, `frozen` parameters, have optimizer state too: their gradients are zero and nothing decays.
    `new` are the slots with the learning rate of new weights.
    """

    slots: tuple[str, ...]
    parameters: int
    of: int
    lora: Lora | None = None
    rows: Mapping[str, range] = field(default_factory=dict)
    frozen: int = 0
    new: frozenset[str] = frozenset()

    @property
    def held(self) -> int:
        """The number of parameters with optimizer state."""
        return self.parameters + self.frozen

    @property
    def optimiser_bytes(self) -> int:
        """Bytes of float32 parameters, gradients and AdamW's moments."""
        return self.held * (MASTER + GRADIENT + MOMENTS)

    @property
    def reached(self) -> tuple[str, ...]:
        """The slots that training changes: trainable ones, and those with a low-rank update."""
        return self.slots if self.lora is None else (*self.slots, *self.lora.slots)

    @property
    def parametrisation(self) -> Parametrisation:
        """How the weights of the model are computed from its parameters."""
        return PLAIN if self.lora is None else self.lora

    def weights(self, program: Program, trained: Mapping[str, Tensor]) -> dict[str, Lazy]:
        """Return the weights that trained parameters stand for, with the frozen rows replaced by the program's own."""
        out = self.parametrisation.weights(program, trained)
        for name, rows in self.rows.items():
            old, new = program.weights[name], out[name]
            parts = (
                take_rows(old, 0, rows.start),
                take_rows(new, rows.start, rows.stop),
                take_rows(old, rows.stop, old.shape[0]),
            )
            out[name] = join([part for part in parts if part.shape[0]])
        return out

    def apply(self, model: nn.Module) -> None:
        """Make these parameters of a model on the meta device trainable, in float32, and no others."""
        self.parametrisation.inject(model)
        chosen = {*self.slots, None}
        for name, parameter in model.named_parameters():
            is_trainable = self.parametrisation.slot(name) in chosen
            parameter.requires_grad_(is_trainable)
            if is_trainable:
                parameter.data = parameter.data.float()
