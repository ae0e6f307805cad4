"""The trainable parameters of a student, and the memory that training them takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kept.ir.tensors import join, take_rows

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from kept.distillation.train.lora import Lora
    from kept.ir.program import Program
    from kept.ir.tensors import Lazy

MASTER, MOMENTS, GRADIENT = 4, 8, 4
"""Bytes for each trainable parameter: itself in float32, AdamW's two moments, and its gradient."""


@dataclass(frozen=True)
class Trainable:
    """The trainable slots, the number of trainable parameters, and the number of all (`of`).

    `lora` has the matrices with low-rank updates. `rows` are the slots of which only some rows are trainable, and these
    rows. Their other rows, `frozen` parameters, have optimizer state too: their gradients are zero and nothing decays.
    """

    slots: tuple[str, ...]
    parameters: int
    of: int
    lora: Lora | None = None
    rows: Mapping[str, range] = field(default_factory=dict)
    frozen: int = 0

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

    def weights(self, program: Program, trained: Mapping[str, Lazy]) -> dict[str, Lazy]:
        """Return trained weights, with the frozen rows replaced by the program's own."""
        out = {**trained}
        for name, rows in self.rows.items():
            old, new = program.weights[name], trained[name]
            parts = (
                take_rows(old, 0, rows.start),
                take_rows(new, rows.start, rows.stop),
                take_rows(old, rows.stop, old.shape[0]),
            )
            out[name] = join([part for part in parts if part.shape[0]])
        return out

    def apply(self, model: nn.Module) -> None:
        """Make these parameters of a model trainable, in float32, and no others. LoRA needs the meta device."""
        if self.lora is not None:
            self.lora.inject(model)
        chosen = set(self.slots)
        for name, parameter in model.named_parameters():
            is_trainable = name.replace(".base_layer.", ".") in chosen or ".lora_" in name
            parameter.requires_grad_(is_trainable)
            if is_trainable:
                parameter.data = parameter.data.float()
