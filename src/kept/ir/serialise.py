"""A spec as JSON and back: what `kept.json` and the config of the `kept` model class hold.

A part is an object of its fields; a part that comes in kinds has its `kind` too. Equal consecutive layers are one
object with their number, `repeat`. Reading is strict: every field is there, no other is, and each has its type.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from itertools import groupby
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from kept.errors import CheckpointError
from kept.ir import spec as ir
from kept.ir.facts import kind_of, parts, type_hints

MOST_LAYERS = 1000
"""Layers that a file may describe; a few bytes of JSON must not cost gigabytes."""


def to_json(spec: ir.Spec) -> dict[str, Any]:
    """Return the spec as plain data that `json.dumps` writes and `from_json` reads."""
    out = {field.name: _plain(getattr(spec, field.name)) for field in fields(spec) if field.name != "layers"}
    runs = ((layer, len([*run])) for layer, run in groupby(spec.layers))
    return {**out, "layers": [{"repeat": count, **_plain(layer)} for layer, count in runs]}


def from_json(data: object) -> ir.Spec:
    """Return the spec that `to_json` made the data from. Raises CheckpointError naming the field that is wrong."""
    table = _object(data, "spec")
    hints = type_hints(ir.Spec)
    _check_fields(table, {*hints}, "spec")
    try:
        rest = {name: _read(hints[name], table[name], name) for name in hints if name != "layers"}
        return ir.Spec(layers=_layers(table["layers"]), **rest)
    except AssertionError as error:
        raise CheckpointError(f"spec: {error or 'its parts do not fit together'}") from None


def part_to_json(part: ir.Operation | ir.Norm) -> dict[str, Any]:
    """Return an operation or a norm as it stands in the JSON of a spec."""
    out: dict[str, Any] = _plain(part)
    return out


def operation_from_json(data: object, path: str) -> ir.Operation | None:
    """Return an operation from its JSON, None for null. Raises CheckpointError naming the field that is wrong."""
    found: ir.Operation | None = _checked(ir.Operation | None, data, path)
    return found


def norm_from_json(data: object, path: str) -> ir.Norm | None:
    """Return a norm from its JSON, None for null. Raises CheckpointError naming the field that is wrong."""
    found: ir.Norm | None = _checked(ir.Norm | None, data, path)
    return found


def _checked(hint: object, data: object, path: str) -> Any:  # noqa: ANN401 - the type is the argument's
    try:
        return _read(hint, data, path)
    except AssertionError as error:
        raise CheckpointError(f"{path}: {error or 'its parts do not fit together'}") from None


def _layers(data: object) -> tuple[ir.Layer, ...]:
    out: list[ir.Layer] = []
    for number, run in enumerate(_list(data, "layers")):
        path = f"layers[{number}]"
        table = _object(run, path)
        count = _read(int, table.get("repeat"), f"{path}.repeat")
        if not 1 <= count <= MOST_LAYERS - len(out):
            raise CheckpointError(f"spec: {path}.repeat is {count}, and a model has 1 to {MOST_LAYERS} layers")
        out += [_part(ir.Layer, {key: value for key, value in table.items() if key != "repeat"}, path)] * count
    return tuple(out)


def _plain(value: object) -> Any:  # noqa: ANN401 - plain data
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    if not is_dataclass(value):
        return value
    kind = {"kind": kind_of(type(value))} if hasattr(value, "KIND") else {}
    return {**kind, **{field.name: _plain(getattr(value, field.name)) for field in fields(value)}}


def _part(part: type[Any], table: dict[str, Any], path: str) -> Any:  # noqa: ANN401 - the type is the argument's
    known = type_hints(part)  # type: ignore[arg-type] # mypy holds that a type is not hashable
    hints = {field.name: known[field.name] for field in fields(part)}
    _check_fields(table, {*hints}, path)
    return part(**{name: _read(hint, table[name], f"{path}.{name}") for name, hint in hints.items()})


def _check_fields(table: dict[str, Any], wanted: set[str], path: str) -> None:
    wrong = next(iter(sorted(wanted ^ table.keys())), None)
    if wrong is not None:
        raise CheckpointError(f"spec: {path}.{wrong} is {'missing' if wrong in wanted else 'not a field'}")


def _read(hint: object, value: object, path: str) -> Any:  # noqa: ANN401 - the type is the argument's
    """Return a value as its type says. Raises CheckpointError naming the path."""
    choices = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
    if value is None and NoneType in choices:
        return None
    kinds = parts(hint)
    if kinds:
        return _kind(kinds, _object(value, path), path)
    for choice in choices:
        if _fits(choice, value):
            return tuple(value) if isinstance(value, list) else float(value) if choice is float else value  # type: ignore[arg-type] # it fits
    raise CheckpointError(f"spec: {path} is {value!r:.40}, which is not its type")


def _kind(kinds: dict[str, type[Any]], table: dict[str, Any], path: str) -> Any:  # noqa: ANN401 - one of the kinds
    if not any(hasattr(part, "KIND") for part in kinds.values()):
        (part,) = kinds.values()
        return _part(part, table, path)
    kind = table.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise CheckpointError(f"spec: {path}.kind is {kind!r:.40}, it must be one of {', '.join(kinds)}")
    return _part(kinds[kind], {key: value for key, value in table.items() if key != "kind"}, path)


def _fits(choice: object, value: object) -> bool:
    """Return whether a plain value has a type: bool, int, float, str, a Literal, or a tuple of one of them."""
    if get_origin(choice) is Literal:
        return value in get_args(choice)
    if get_origin(choice) is tuple:
        inner = get_args(choice)[0]
        return isinstance(value, list) and all(_fits(inner, one) for one in value)
    if isinstance(value, bool) or choice is bool:
        return choice is bool and isinstance(value, bool)
    return isinstance(value, int | float) if choice is float else isinstance(value, choice)  # type: ignore[arg-type]


def _object(value: object, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"spec: {path} is {value!r:.40}, it must be an object")
    return value


def _list(value: object, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise CheckpointError(f"spec: {path} is {value!r:.40}, it must be a list")
    return value
