"""Which weights learn: a word (norms, head, new, all, lora) or a pattern over slots, and what that costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from kept.errors import InputError
from kept.ir.slots import norms
from kept.ir.tensors import join, take_rows
from kept.passes.expand_vocabulary import GIVEN

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from typing import Any

    from torch import nn

    from kept.distillation.train.lora import Lora
    from kept.ir.program import Program
    from kept.ir.tensors import Lazy

WORDS = ("all", "norms", "head", "new", "lora")

MASTER, MOMENTS, GRADIENT = 4, 8, 4
"""Bytes that AdamW holds for a parameter that learns: itself and its gradient in float32, and two moments."""


@dataclass(frozen=True)
class Trainable:
    """The slots that learn, how many parameters do in all, and of how many; `lora` is what learns thin matrices.

    `rows` are slots of which only some rows learn, and which these are. Of their other rows, `frozen` numbers in all,
    the optimiser has its share too: their gradients are zero, and nothing decays them.
    """

    slots: tuple[str, ...]
    parameters: int
    of: int
    lora: Lora | None = None
    rows: Mapping[str, range] = field(default_factory=dict)
    frozen: int = 0

    @property
    def held(self) -> int:
        """Parameters that the optimiser holds."""
        return self.parameters + self.frozen

    @property
    def optimiser_bytes(self) -> int:
        """What learning them takes beside the model: master weights, gradients and AdamW's moments."""
        return self.held * (MASTER + GRADIENT + MOMENTS)

    @property
    def reached(self) -> tuple[str, ...]:
        """The slots that learn, and those beside which thin matrices do."""
        return self.slots if self.lora is None else (*self.slots, *self.lora.slots)

    def weights(self, program: Program, learned: Mapping[str, Lazy]) -> dict[str, Lazy]:
        """What was learned, with the program's own rows where others do not learn."""
        out = {**learned}
        for name, rows in self.rows.items():
            old, new = program.weights[name], learned[name]
            parts = (
                take_rows(old, 0, rows.start),
                take_rows(new, rows.start, rows.stop),
                take_rows(old, rows.stop, old.shape[0]),
            )
            out[name] = join([part for part in parts if part.shape[0]])
        return out

    def apply(self, model: nn.Module) -> None:
        """Let these parameters of a model learn and no other; they become float32. With LoRA it has no memory yet."""
        if self.lora is not None:
            self.lora.inject(model)
        chosen = set(self.slots)
        for name, parameter in model.named_parameters():
            learns = name.replace(".base_layer.", ".") in chosen or ".lora_" in name
            parameter.requires_grad_(learns)
            if learns:
                parameter.data = parameter.data.float()


def trainable(
    program: Program,
    choice: str,
    record: Mapping[str, Any] | None = None,
    lora_rank: int = 16,
    lora_alpha: float = 32,
) -> Trainable:
    """The weights that a choice names: words and patterns joined by `+`, as `norms+head` or `layers.3.*`.

    `new` is what the passes of a conversion created, which its record (`kept.json`) lists: layers, weights, and of
    embedding and head the rows of new tokens; `lora` two thin matrices beside each projection of attention and MLPs.
    Raises InputError for a part that names nothing, and a rank that no matrix has.
    """
    found: dict[str, None] = {}
    rows: dict[str, range] = {}
    lora = None
    for part in choice.split("+"):
        if part.strip() == "lora":
            lora = _lora(program, lora_rank, lora_alpha)
            continue
        named = _named(program, part.strip(), record or {})
        if part.strip() == "new":
            rows = _new_rows(program, record or {})
        if not named and not rows and part.strip() == "new":
            raise InputError(
                "train: 'new' is what kept expand or a conversion made, and the student's kept.json lists nothing; "
                "expand it first, or train norms"
            )
        if not named and not (rows and part.strip() == "new"):
            raise InputError(f"train: {part!r} names no weight; use {', '.join(WORDS)}, or a pattern as layers.0.*")
        found |= dict.fromkeys(named)
    rows = {name: some for name, some in rows.items() if name not in found}
    chosen = tuple(name for name in program.weights if name in found or name in rows)
    held = sum(math.prod(program.weights[name].shape) for name in chosen)
    frozen = sum(_beside(program.weights[name].shape, some) for name, some in rows.items())
    thin = lora.parameters(program) if lora else 0
    return Trainable(chosen, held - frozen + thin, program.parameters, lora, rows, frozen)


def _lora(program: Program, rank: int, alpha: float) -> Lora:
    from kept.distillation.train.lora import Lora, matrices  # noqa: PLC0415 - imports torch, which a plan does not need

    found = tuple(matrices(program))
    most = max((min(program.weights[name].shape) for name in found), default=rank)
    if rank > most:
        raise InputError(f"lora_rank: is {rank}, no matrix has a rank above {most}; make it smaller")
    return Lora(found, rank, alpha)


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
    numbers, parameters = record.get("new_layers", []), record.get("new_parameters", [])
    depth = program.spec.depth
    if not (isinstance(numbers, list) and all(type(number) is int and 0 <= number < depth for number in numbers)):
        raise _damaged("new_layers", f"a list of layers from 0 to {depth - 1}")
    if not (isinstance(parameters, list) and all(isinstance(name, str) for name in parameters)):
        raise _damaged("new_parameters", "a list of names of weights")
    layers, made = tuple(f"layers.{number}." for number in numbers), {*parameters}
    return [name for name in program.weights if name in made or (layers and name.startswith(layers))]


def _damaged(key: str, wanted: str) -> InputError:
    return InputError(f"train: 'new' is what the student's kept.json lists, but its {key} is not {wanted}; use norms")


def _new_rows(program: Program, record: Mapping[str, Any]) -> dict[str, range]:
    """The rows of new tokens, in each weight that has a row for every token."""
    match record.get("new_tokens", []):
        case []:
            return {}
        case [int(first), int(end)] if 0 <= first < end <= program.spec.vocabulary:
            return {slot: range(first, end) for slot in GIVEN if slot in program.weights}
        case _:
            raise _damaged("new_tokens", f"a first id and an end of at most {program.spec.vocabulary}")


def _beside(shape: tuple[int, ...], rows: range) -> int:
    """Numbers of a weight in other rows than these."""
    return (shape[0] - len(rows)) * math.prod(shape[1:])
