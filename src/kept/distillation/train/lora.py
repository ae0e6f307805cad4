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


def slot_name(parameter: str) -> str:
    """Return the slot of a model's parameter, which peft may have wrapped."""
    return parameter.replace(".base_layer.", ".")


def initial_parameter(program: Program, name: str, shape: tuple[int, ...]) -> Lazy:
    """Return a parameter's initial value: a weight of the program, or A or B of an update.

    B is 0, so the function of the model is unchanged. A is uniform within 1 / sqrt(inputs), as in peft. Its
    seed is made of its name, so that it is the same on any rank.
    """
    if ".lora_B." in name:
        return Full(shape, "F32", 0.0)
    if ".lora_A." not in name:
        return program.weights[slot_name(name)]
    seed = int.from_bytes(sha256(name.encode()).digest()[:7], "little")
    bound = shape[1] ** -0.5
    generator = torch.Generator().manual_seed(seed)
    return InMemory(shape, "F32", torch.empty(shape).uniform_(-bound, bound, generator=generator))


def merge_lora(program: Program, trained: Mapping[str, Tensor], lora: Lora | None) -> dict[str, Lazy]:
    """Return the trained parameters of a model as weights by slot, with the updates merged into their matrices."""
    weights: dict[str, Lazy] = {
        slot_name(name): InMemory(tuple(value.shape), program.weights[slot_name(name)].dtype, value)
        for name, value in trained.items()
        if ".lora_" not in name
    }
    if lora is None:
        return weights
    for name in lora.slots:
        module = name.removesuffix(".weight")
        a_RI, b_OR = (trained[f"{module}.lora_{side}.{ADAPTER}.weight"] for side in "AB")
        update = tuple(InMemory(tuple(x.shape), "F32", x) for x in (b_OR, a_RI))
        matrix = weights.get(name, program.weights[name])
        weights[name] = Computed(matrix.shape, matrix.dtype, partial(_updated, scale=lora.scale), (matrix,), update)
    return weights


def _updated(matrix_OI: Tensor, b_OR: Tensor, a_RI: Tensor, *, scale: float) -> Tensor:
    return torch.addmm(matrix_OI, b_OR, a_RI, alpha=scale)
