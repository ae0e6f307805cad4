"""Choose trainable parameters by words (norms, head, new, all, lora) and patterns over slot names."""

from __future__ import annotations

import math
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from kept.distillation.settings_fields import CHANGED
from kept.distillation.train.trainable import Trainable
from kept.errors import InputError
from kept.ir.slots import norms
from kept.passes.expand_vocabulary import GIVEN

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from kept.distillation.train.lora import Lora
    from kept.ir.program import Program
    from kept.ir.spec import Spec

WORDS = ("all", "norms", "head", "new", "lora")


def trainable(
    program: Program,
    choice: str,
    record: Mapping[str, Any] | None = None,
    lora_rank: int = 16,
    lora_alpha: float = 32,
    changed: Collection[str] = (),
) -> Trainable:
    """Return the parameters that a choice names: words and patterns joined by `+`, as `norms+head` or `layers.3.*`.

    `new` are the layers and weights that a conversion created, and in embedding and head the rows of new tokens, as its
    record (`kept.json`) lists them. `lora` are low-rank updates of the matrices of all layers. `changed` names the
    slots that are given as such. Raises InputError for a part that names no weight, and for a rank above that of every
    matrix.
    """
    words = [part.strip() for part in choice.split("+")]
    rows = _new_rows(program, record or {}) if "new" in words else {}
    found: set[str] = set()
    for word in words:
        names = changed if word == CHANGED else _named(program, word, record or {})
        if not names and not (word == "new" and rows):
            raise _no_weight(word)
        found |= set() if word == "lora" else set(names)
    lora = _lora(program, lora_rank, lora_alpha) if "lora" in words else None
    return _trainable(program, found, {name: some for name, some in rows.items() if name not in found}, lora)


def lora_slots(spec: Spec) -> tuple[str, ...]:
    """Return the slots that LoRA adapts: the matrices of all layers that have two axes, as peft's layers need.

    Projections that a mixer reads in parts are left out: what an adapter adds to their product would be ignored.
    """
    return tuple(
        f"{at}{name}"
        for at, branch in spec.branches()
        for name, slot in branch.slots(spec.width)
        if slot.role == "matrix"
        and len(slot.shape) == 2
        and name.removesuffix(".weight").removeprefix(f"{branch.name}.") not in branch.op.read_in_parts
    )


def _trainable(program: Program, found: set[str], rows: Mapping[str, range], lora: Lora | None) -> Trainable:
    """Count the parameters of a choice."""
    chosen = tuple(name for name in program.weights if name in found or name in rows)
    held = sum(math.prod(program.weights[name].shape) for name in chosen)
    frozen = sum(_other_rows(program.weights[name].shape, some) for name, some in rows.items())
    updates = lora.parameter_count(program) if lora else 0
    return Trainable(chosen, held - frozen + updates, program.parameters, lora, rows, frozen)


def _lora(program: Program, rank: int, alpha: float) -> Lora:
    from kept.distillation.train.lora import Lora  # noqa: PLC0415 - imports torch, which a plan does not need

    found = lora_slots(program.spec)
    highest = max((min(program.weights[name].shape) for name in found), default=rank)
    if rank > highest:
        raise InputError(f"lora_rank: is {rank}, no matrix has a rank above {highest}; make it smaller")
    return Lora(found, rank, alpha)


def _named(program: Program, word: str, record: Mapping[str, Any]) -> Collection[str]:
    """Return the slots that a word or a pattern names."""
    match word:
        case "all":
            return [*program.weights]
        case "norms":
            of_norms = {name for name, _, _ in norms(program.spec)}
            return [name for name in program.weights if name.rpartition(".")[0] in of_norms]
        case "head":
            head = [name for name in program.weights if name.startswith("head.")]
            return ["embedding.weight", *head] if program.spec.head.tied else head
        case "new":
            return new_slots(program, record)
        case "lora":
            return lora_slots(program.spec)
        case _:
            return [name for name in program.weights if fnmatch(name, word)]


def _no_weight(word: str) -> InputError:
    if word == "new":
        return InputError(
            "train: 'new' is what kept expand or a conversion made, and the student's kept.json lists nothing; "
            "expand it first, or train norms"
        )
    return InputError(f"train: {word!r} names no weight; use {', '.join(WORDS)}, or a pattern as layers.0.*")


def new_slots(program: Program, record: Mapping[str, Any]) -> Collection[str]:
    """Return the slots that a record lists as new. Raises InputError if the record is damaged."""
    numbers, parameters = record.get("new_layers", []), record.get("new_parameters", [])
    depth = program.spec.depth
    if not (isinstance(numbers, list) and all(type(number) is int and 0 <= number < depth for number in numbers)):
        raise _damaged("new_layers", f"a list of layers from 0 to {depth - 1}")
    if not (isinstance(parameters, list) and all(isinstance(name, str) for name in parameters)):
        raise _damaged("new_parameters", "a list of names of weights")
    layers, created = tuple(f"layers.{number}." for number in numbers), {*parameters}
    return [name for name in program.weights if name in created or (layers and name.startswith(layers))]


def _damaged(key: str, wanted: str) -> InputError:
    return InputError(f"train: 'new' is what the student's kept.json lists, but its {key} is not {wanted}; use norms")


def _new_rows(program: Program, record: Mapping[str, Any]) -> dict[str, range]:
    """Return the rows of new tokens, in each weight that has a row for every token."""
    match record.get("new_tokens", []):
        case []:
            return {}
        case [int(first), int(end)] if 0 <= first < end <= program.spec.vocabulary:
            return {slot: range(first, end) for slot in GIVEN if slot in program.weights}
        case _:
            raise _damaged("new_tokens", f"a first id and an end of at most {program.spec.vocabulary}")


def _other_rows(shape: tuple[int, ...], rows: range) -> int:
    """Return the number of elements of a weight outside some rows."""
    return (shape[0] - len(rows)) * math.prod(shape[1:])
