"""LoRA (arXiv 2106.09685): a frozen matrix W gets a trainable update of low rank, W + (alpha / r) B A.

The layers are peft's. The update is merged into W when the result is written, so the output is a plain checkpoint.
Shapes: A (r, inputs), B (outputs, r).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kept.distillation.train.parametrisation import PLAIN
from kept.errors import InputError
from kept.ir.tensors import Computed, Full, InMemory, Lazy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from kept.ir.program import Program

ADAPTER = "kept"
"""The name of the adapter in peft."""


@dataclass(frozen=True)
class Lora:
    """The adapted matrices, and the rank and the alpha of their updates."""

    slots: tuple[str, ...]
    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """The factor of B A."""
        return self.alpha / self.rank

    def parameter_count(self, program: Program) -> int:
        """Return the number of trainable parameters."""
        return sum(self.rank * sum(program.weights[name].shape) for name in self.slots)

    def inject(self, model: nn.Module) -> None:
        """Wrap the adapted matrices of a model on the meta device in peft's layers. Raises InputError without peft."""
        try:
            from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - slow to import, and optional
        except ImportError:
            raise InputError("train: lora needs peft; pip install 'kept[heal]'") from None
        modules = [name.removesuffix(".weight") for name in self.slots]
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=modules, bias="none")  # type: ignore[arg-type] # any number
        inject_adapter_in_model(config, model, ADAPTER, low_cpu_mem_usage=True)

    def slot(self, parameter: str) -> str | None:
        """Return the slot of a parameter, which peft may have wrapped; None for A and B."""
        return None if ".lora_" in parameter else parameter.replace(".base_layer.", ".")

    def initial(self, program: Program, parameter: str, shape: tuple[int, ...]) -> Lazy:
        """Return the initial value of a parameter: the program's weight, or one of an update.

        B is 0, so the function of the model is unchanged. A is uniform within 1 / sqrt(inputs), as in peft. Its
        seed is made of its name, so that it is the same on any rank.
        """
        slot = self.slot(parameter)
        if slot is not None:
            return program.weights[slot]
        if ".lora_B." in parameter:
            return Full(shape, "F32", 0.0)
        seed = int.from_bytes(sha256(parameter.encode()).digest()[:7], "little")
        bound = shape[1] ** -0.5
        generator = torch.Generator().manual_seed(seed)
        return InMemory(shape, "F32", torch.empty(shape).uniform_(-bound, bound, generator=generator))

    def weights(self, program: Program, trained: Mapping[str, Tensor]) -> dict[str, Lazy]:
        """Return the trained parameters as weights by slot, with the updates merged into their matrices."""
        slots = {slot: value for name, value in trained.items() if (slot := self.slot(name)) is not None}
        weights = PLAIN.weights(program, slots)
        for name in self.slots:
            matrix = weights.get(name, program.weights[name])
            a_RI, b_OR = (trained[f"{name.removesuffix('.weight')}.lora_{side}.{ADAPTER}.weight"] for side in "AB")
            update = tuple(InMemory(tuple(x.shape), "F32", x) for x in (b_OR, a_RI))
            weights[name] = Computed(matrix.shape, matrix.dtype, partial(_updated, scale=self.scale), (matrix,), update)
        return weights


def _updated(matrix_OI: Tensor, b_OR: Tensor, a_RI: Tensor, *, scale: float) -> Tensor:
    return torch.addmm(matrix_OI, b_OR, a_RI, alpha=scale)
