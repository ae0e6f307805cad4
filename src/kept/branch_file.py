"""Replacements of branches in a file, so that a recipe can name them.

A safetensors file has the given weights by the names of their slots (`layers.3.mixer.q.weight`). Its metadata has
the entry `branches`: JSON with a key for each replaced branch (`layers.3.mixer`) and what `kept.json` states of it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, cast

from kept.checkpoint.nonfinite import first_not_finite
from kept.checkpoint.safetensors_header import read_header, stated_metadata
from kept.errors import CheckpointError, InputError
from kept.ir.serialise import norm_from_json, operation_from_json
from kept.passes.replace_branches import BranchChoice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from kept.ir.spec.layer import BranchName
    from kept.ir.tensors import Lazy

BRANCH = re.compile(r"layers\.(?P<layer>\d{1,6})\.(?P<branch>mixer|mlp)", re.ASCII)
"""Name of a branch."""

WRITTEN = {"op", "norm", "new", "reused", "proved"}
"""Keys of a branch that are read; the digest of a record is not."""


def read_branches(file: Path) -> tuple[BranchChoice, ...]:
    """Return the replacements in a file. Raises InputError naming the file and what is wrong."""
    try:
        tensors = dict(read_header(file))
        choices = tuple(_choices(json.loads(str(stated_metadata(file).get("branches"))), tensors))
    except (CheckpointError, ValueError, RecursionError) as error:
        raise InputError(f"{file}: is no file of replaced branches ({error}); make it anew") from None
    _check_weights(file, choices, tensors)
    return choices


def _choices(table: object, tensors: Mapping[str, Lazy]) -> Iterator[BranchChoice]:
    if not isinstance(table, dict) or not table:
        raise CheckpointError("it states no branches")
    yield from (_choice(place, one, tensors) for place, one in table.items())


def _choice(place: str, table: object, tensors: Mapping[str, Lazy]) -> BranchChoice:
    match = BRANCH.fullmatch(place)
    if match is None or not isinstance(table, dict) or table.keys() != WRITTEN or not isinstance(table["proved"], bool):
        raise CheckpointError(
            f"{place[:60]} must be a branch, such as layers.3.mixer, with {', '.join(sorted(WRITTEN))}"
        )
    at = f"layers.{int(match['layer'])}."
    return BranchChoice(
        int(match["layer"]),
        cast("BranchName", match["branch"]),
        operation_from_json(table["op"], place),
        norm_from_json(table["norm"], f"{place}_norm"),
        _named(at, table["new"], tensors),
        _named(at, table["reused"], tensors),
        proved=table["proved"],
    )


def _named(at: str, names: Any, tensors: Mapping[str, Lazy]) -> dict[str, Lazy]:  # noqa: ANN401 - JSON
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"{at}: new and reused must be lists of names")
    missing = next((name for name in names if at + name not in tensors), None)
    if missing is not None:
        raise CheckpointError(f"{at}{missing[:60]} is missing")
    return {name: tensors[at + name] for name in names}


def _check_weights(file: Path, choices: tuple[BranchChoice, ...], tensors: Mapping[str, Lazy]) -> None:
    """Raise InputError for a tensor that no branch names, and for one with NaN or Inf."""
    named = {f"layers.{choice.layer}.{name}" for choice in choices for name in choice.given}
    odd = next((name for name in tensors if name not in named), None)
    if odd is not None:
        raise InputError(f"{file}: no branch names {odd}; leave it out")
    wrong = first_not_finite(tensors)
    if wrong is not None:
        raise InputError(f"{file}: {wrong[0]} has {wrong[2]}, which no model takes; make it anew")
