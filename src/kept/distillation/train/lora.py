"""LoRA: a matrix W stays and learns a product of two thin ones beside it, W + (alpha / r) B A (arXiv 2106.09685).

The layers are peft's; what they learn is merged into W when the result is written, so it is a plain checkpoint.
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
"""What peft calls the pair of thin matrices."""


@dataclass(frozen=True)
class Lora:
    """The matrices that learn thin ones, the rank of these and what they weigh."""

    slots: tuple[str, ...]
    rank: int
    alpha: float

    @property
    def scale(self) -> float:
        """What B A is multiplied by."""
        return self.alpha / self.rank

    def parameters(self, program: Program) -> int:
        """How many learn."""
        return sum(self.rank * sum(program.weights[name].shape) for name in self.slots)

    def inject(self, model: nn.Module) -> None:
        """Put peft's layers around these matrices of a model without memory. Raises InputError without peft."""
        try:
            from peft import LoraConfig, inject_adapter_in_model  # noqa: PLC0415 - slow to import, and optional
        except ImportError:
            raise InputError("train: lora needs peft; pip install 'kept[heal]'") from None
        modules = [name.removesuffix(".weight") for name in self.slots]
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=modules, bias="none")  # type: ignore[arg-type] # any number
        inject_adapter_in_model(config, model, ADAPTER, low_cpu_mem_usage=True)


def matrices(program: Program) -> list[str]:
    """The projections of attention and MLPs, which are what LoRA adapts."""
    inside = (".mixer.", ".mlp.")
    return [name for name in program.weights if name.endswith(".weight") and any(part in name for part in inside)]


def slot(name: str) -> str:
    """The slot of a model's parameter, which peft may have wrapped."""
    return name.replace(".base_layer.", ".")


def initial_parameter(program: Program, name: str, shape: tuple[int, ...]) -> Lazy:
    """What a model's parameter is at first: a weight of the program, or one of two thin matrices.

    B is 0, so the model is what it was. A is uniform within 1 / sqrt(inputs), as peft's is, and drawn by its name: the
    same on any rank.
    """
    if ".lora_B." in name:
        return Full(shape, "F32", 0.0)
    if ".lora_A." not in name:
        return program.weights[slot(name)]
    seed = int.from_bytes(sha256(name.encode()).digest()[:7], "little")
    bound = shape[1] ** -0.5
    return InMemory(
        shape, "F32", torch.empty(shape).uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
    )


def merge_lora(program: Program, learned: Mapping[str, Tensor], lora: Lora | None) -> dict[str, Lazy]:
    """What a model's parameters learned, as weights: thin matrices are added to the wide ones beside them."""
    weights: dict[str, Lazy] = {
        slot(name): InMemory(tuple(value.shape), program.weights[slot(name)].dtype, value)
        for name, value in learned.items()
        if ".lora_" not in name
    }
    if lora is None:
        return weights
    for name in lora.slots:
        module = name.removesuffix(".weight")
        a_RI, b_OR = (learned[f"{module}.lora_{side}.{ADAPTER}.weight"] for side in "AB")
        thin_ones = tuple(InMemory(tuple(x.shape), "F32", x) for x in (b_OR, a_RI))
        wide = weights.get(name, program.weights[name])
        weights[name] = Computed(wide.shape, wide.dtype, partial(_added, scale=lora.scale), (wide,), thin_ones)
    return weights


def _added(wide_OI: Tensor, b_OR: Tensor, a_RI: Tensor, *, scale: float) -> Tensor:
    return torch.addmm(wide_OI, b_OR, a_RI, alpha=scale)
