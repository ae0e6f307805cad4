"""Which weights learn: a word (norms, head, new, all) or a pattern over slots, and what that costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from kept.errors import InputError
from kept.ir.slots import norms

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Any

    from torch import nn

    from kept.ir.program import Program

WORDS = ("all", "norms", "head", "new")

MASTER, MOMENTS, GRADIENT = 4, 8, 4
"""Bytes that AdamW holds for a parameter that learns: itself and its gradient in float32, and two moments."""


@dataclass(frozen=True)
class Trainable:
    """The slots that learn, how many parameters they are, and of how many."""

    slots: tuple[str, ...]
    parameters: int
    of: int

    @property
    def optimiser_bytes(self) -> int:
        """What learning them takes beside the model: master weights, gradients and AdamW's moments."""
        return self.parameters * (MASTER + GRADIENT + MOMENTS)

    def apply(self, model: nn.Module) -> None:
        """Let these parameters of a model learn and no other; they become float32."""
        chosen = set(self.slots)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in chosen)
            if name in chosen:
                parameter.data = parameter.data.float()


def trainable(program: Program, choice: str, record: Mapping[str, Any] | None = None) -> Trainable:
    """The weights that a choice names: words and patterns joined by `+`, as `norms+head` or `layers.3.*`.

    `new` is what the passes of a conversion created, which its record (`kept.json`) lists. Raises InputError for a part
    that names nothing.
    """
    found: dict[str, None] = {}
    for part in choice.split("+"):
        named = _named(program, part.strip(), record or {})
        if not named and part.strip() == "new":
            raise InputError(
                "train: 'new' is what a conversion created, and the student's kept.json lists nothing; use norms"
            )
        if not named:
            raise InputError(f"train: {part!r} names no weight; use {', '.join(WORDS)}, or a pattern as layers.0.*")
        found |= dict.fromkeys(named)
    chosen = tuple(name for name in program.weights if name in found)
    return Trainable(chosen, sum(math.prod(program.weights[name].shape) for name in chosen), program.parameters)


def _named(program: Program, part: str, record: Mapping[str, Any]) -> Collection[str]:
    match part:
        case "all":
            return [*program.weights]
        case "norms":
            of_norms = {name for name, _, _ in norms(program.spec)}
            return [name for name in program.weights if name.rpartition(".")[0] in of_norms]
        case "head":
            head = [name for name in program.weights if name.startswith("head.")]
            return ["embedding.weight", *head] if program.spec.head.tied else head
        case "new":
            return _new(program, record)
        case _:
            return [name for name in program.weights if fnmatch(name, part)]


def _new(program: Program, record: Mapping[str, Any]) -> Sequence[str]:
    layers = tuple(f"layers.{number}." for number in record.get("new_layers", ()))
    parameters = set(record.get("new_parameters", ()))
    return [name for name in program.weights if name in parameters or (layers and name.startswith(layers))]
