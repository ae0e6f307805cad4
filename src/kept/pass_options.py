"""Passes in recipes: a table with the name of a pass and values for its options, checked against their types."""

from __future__ import annotations

import sys
from dataclasses import MISSING
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from kept.device import Dtype
from kept.errors import RecipeError
from kept.ir.tensors import TORCH_NAMES
from kept.passes import PASSES, Pass
from kept.setting_types import Texts, WholeNumbers, nearest
from kept.settings_model import CONFIG, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

DTYPES = {torch_name: name for name, torch_name in TORCH_NAMES.items()}
"""Our dtype names by the names that users write."""

TYPES: dict[Any, Any] = {tuple[int, ...]: WholeNumbers, tuple[str, ...]: Texts}
"""TOML types of option values, by the annotation of the field."""


def options_model(name: str) -> type[Settings]:
    """Return the settings class of a pass's options."""
    return _options_model(PASSES[name])


@cache
def _options_model(kind: type[Pass]) -> type[Settings]:
    chosen = {one.name: one for one in kind.chosen_fields()}
    written = {one.name: one.type for one in chosen.values()}
    hints = get_type_hints(SimpleNamespace(__annotations__=written), vars(sys.modules[kind.__module__]))
    hints = {key: TYPES.get(hint, hint) for key, hint in hints.items()}
    if "dtype" in hints:
        hints["dtype"] = Dtype
    defaults = {key: one.default for key, one in chosen.items() if one.default is not MISSING}
    body = {"__annotations__": hints, "__module__": __name__, "WHAT": f"an option of {kind.name}", **defaults}
    made: type[Settings] = type(f"{kind.__name__}Options", (Settings,), body)
    return dataclass(frozen=True, config=CONFIG)(made)  # type: ignore[return-value]  # of the class that it is given


def pass_from(entry: object) -> Pass:
    """Return the pass that a table of a recipe describes. Raises RecipeError with the key that is wrong."""
    if isinstance(entry, Pass):
        return entry
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        raise RecipeError("every pass is a table with a name", "name")
    name, options = entry["name"], {key: value for key, value in entry.items() if key != "name"}
    if name not in PASSES:
        raise RecipeError(f"{name!r} is not a pass{nearest(name, PASSES)}; there are {', '.join(PASSES)}", "name")
    if options.get("mode") == "calibrated":
        raise RecipeError('calibration is the recipe\'s own choice; write norm = "calibrated" above the passes', "mode")
    checked = options_model(name).from_table(options)
    values = {key: getattr(checked, key) for key in options}
    return PASSES[name](**{key: DTYPES[value] if key == "dtype" else value for key, value in values.items()})


def passes_from(entries: object) -> tuple[Pass, ...]:
    """Return the passes that a recipe lists. Raises RecipeError with the number of the pass and the key."""
    if not isinstance(entries, list | tuple):
        raise RecipeError(f"is {entries!r}, it must be a list of tables: write each under [[passes]]", "passes")
    return tuple(_numbered(entries))


def _numbered(entries: list[object] | tuple[object, ...]) -> Iterator[Pass]:
    for at, entry in enumerate(entries):
        try:
            yield pass_from(entry)
        except RecipeError as error:
            raise error.within("passes", at) from None


def pass_table(rewrite: Pass) -> dict[str, Any]:
    """Return a pass as a table of a recipe."""
    return {"name": rewrite.name, **rewrite.options()}


def passes_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe's list of passes."""
    entries = [_entry_schema(name) for name in PASSES]
    return {"type": "array", "items": {"oneOf": entries}}


def _entry_schema(name: str) -> dict[str, Any]:
    schema = TypeAdapter(options_model(name)).json_schema()
    properties = {"name": {"const": name}, **schema.get("properties", {})}
    return {**schema, "properties": properties, "required": ["name", *schema.get("required", ())]}
