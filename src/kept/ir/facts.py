"""A spec as a flat table of facts, `layers.*.mixer.attention.heads -> 40`, and back.

Families are written against facts, so that one table reads and writes a config. A value that all layers share is one
fact; where layers differ the fact is a `PerLayer`. A part that comes in kinds has its kind as its own fact,
`layers.*.mixer -> "attention"`, and in the path of its fields, so that fields of different kinds never share a path.
"""

from __future__ import annotations

import typing
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin, get_type_hints

from kept.ir import spec as ir

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Facts = dict[str, Any]


class Absent:
    """The value of a fact that a layer or a spec does not have."""

    def __repr__(self) -> str:
        """Shown in messages."""
        return "absent"


ABSENT = Absent()


@dataclass(frozen=True)
class PerLayer:
    """One value a layer, where they differ."""

    values: tuple[Any, ...]


def facts(spec: ir.Spec) -> Facts:
    """Every fact of the spec. `centred` is left out: no format records it."""
    out: Facts = {"depth": spec.depth}
    for field in fields(spec):
        if field.name not in {"layers", "centred"}:
            out.update(flatten(field.name, getattr(spec, field.name)))
    layers = [flatten("layers.*", layer) for layer in spec.layers]
    for path in dict.fromkeys(path for layer in layers for path in layer):
        out[path] = across(layer.get(path, ABSENT) for layer in layers)
    return out


def across(values: Iterable[Any]) -> Any:  # noqa: ANN401 - facts hold any plain value
    """Return the fact of these values, one a layer: one value if all layers share it."""
    first, *rest = values
    return first if all(value == first for value in rest) else PerLayer((first, *rest))


def flatten(path: str, value: object) -> Facts:
    """Return the facts of one value: of a dataclass its kind and its fields."""
    if not is_dataclass(value) or isinstance(value, PerLayer):
        return {path: value}
    out: Facts = {path: kind_of(type(value))}
    for field in fields(value):
        out.update(flatten(f"{inside(path, type(value))}.{field.name}", getattr(value, field.name)))
    return out


def kind_of(part: type) -> str:
    """Return the name of a part's kind in facts and in JSON."""
    return str(getattr(part, "KIND", part.__name__))


def inside(path: str, part: type) -> str:
    """Return the path under which the fields of a part stand: with its kind if there are several kinds of it."""
    return f"{path}.{part.KIND}" if hasattr(part, "KIND") else path


def build_spec(table: Facts) -> ir.Spec:
    """The spec that has these facts; what the facts leave out takes the dataclass's default."""
    layers = tuple(build(ir.Layer, "layers.*", at_layer(table, i)) for i in range(table["depth"]))
    hints = type_hints(ir.Spec)
    rest: dict[str, Any] = {name: _value(hints[name], name, table) for name in hints if name != "layers"}
    return ir.Spec(layers=layers, **{name: value for name, value in rest.items() if value is not ABSENT})


def at_layer(table: Facts, layer: int) -> Facts:
    """The facts of one layer: every `PerLayer` replaced by that layer's value, absent ones left out."""
    picked = {path: v.values[layer] if isinstance(v, PerLayer) else v for path, v in table.items()}
    return {path: value for path, value in picked.items() if value is not ABSENT}


def build(part: type[Any], path: str, table: Facts) -> Any:  # noqa: ANN401 - the type is the argument's
    """Return the dataclass `part` from its facts: those directly under `path`."""
    hints = type_hints(part)  # type: ignore[arg-type] # mypy holds that a type is not hashable
    found = {f.name: _value(hints[f.name], f"{path}.{f.name}", table) for f in fields(part)}
    missing = [f.name for f in fields(part) if found[f.name] is ABSENT and f.default is f.default_factory is MISSING]
    assert not missing, (path, missing)
    return part(**{name: value for name, value in found.items() if value is not ABSENT})


_NAMES = {**vars(typing), **vars(ir)}
"""Names that the annotations of parts use."""


@cache
def type_hints(part: type[Any]) -> dict[str, Any]:
    """Return the types of a part's fields."""
    return get_type_hints(part, _NAMES)


def parts(hint: object) -> dict[str, type[Any]]:
    """Return the dataclasses that a type stands for, by kind: of an operation's type those in `OPERATIONS`."""
    choices = get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)
    classes = [one for choice in choices if isinstance(choice, type) for one in _concrete(choice)]
    return {kind_of(one): one for one in classes}


def _concrete(part: type[Any]) -> Iterator[type[Any]]:
    if is_dataclass(part):
        yield part
    elif issubclass(part, ir.Operation):
        yield from (one for one in ir.OPERATIONS.values() if issubclass(one, part))


def _value(hint: object, path: str, table: Facts) -> object:
    kinds = parts(hint)
    kind = table.get(path, ABSENT)
    if not kinds or kind is None:
        return kind
    if kind is ABSENT:  # a table may state a part's fields and leave its kind to them
        kind = next((one for one, part in kinds.items() if _states(table, inside(path, part))), ABSENT)
    return kind if kind is ABSENT else build(kinds[kind], inside(path, kinds[kind]), table)


def _states(table: Facts, path: str) -> bool:
    return any(known.startswith(f"{path}.") for known in table)


@dataclass(frozen=True)
class Violation:
    """A fact that a target cannot express: what the spec has and the nearest thing the target can say."""

    path: str
    found: Any
    needs: Any
    layer: int | None = None

    @property
    def where(self) -> str:
        """The fact's name, with the layer's number."""
        if self.layer is not None:
            return self.path.replace("*", str(self.layer), 1)
        return f"every layer's {self.path[9:]}" if self.path.startswith("layers.*.") else self.path

    @property
    def in_words(self) -> str:
        """One phrase without the layer, the path as words: `MLP activation is silu, the target has gelu`."""
        parts = [part for part in self.path.split(".") if part not in {"layers", "*", "mixer", "dense"}]
        name = " ".join(parts).replace("_", " ").replace("mlp", "MLP") or "mixer"
        return f"{name} is {_shown(self.found)}, the target has {_shown(self.needs)}"

    def __str__(self) -> str:
        """One phrase."""
        return f"{self.where} is {_shown(self.found)}, the target has {_shown(self.needs)}"


def differences(wanted: Facts, said: Facts) -> Iterator[Violation]:
    """Every fact on which two tables differ, outermost first.

    `wanted` has what a spec is, `said` what a target can say of it.
    """
    reported: list[str] = []
    for path in dict.fromkeys((*wanted, *said)):
        found, needs = wanted.get(path, ABSENT), said.get(path, ABSENT)
        if found == needs or any(path.startswith(f"{parent}.") for parent in reported):
            continue
        reported.append(path)
        yield from _by_layer(path, found, needs)


def _by_layer(path: str, found: object, needs: object) -> Iterator[Violation]:
    """One violation for all layers where all have it, else one for the first layer that does."""
    depth = max(len(v.values) if isinstance(v, PerLayer) else 0 for v in (found, needs))
    if depth == 0:
        yield Violation(path, found, needs)
        return
    for layer in range(depth):
        here, there = (v.values[layer] if isinstance(v, PerLayer) else v for v in (found, needs))
        if here != there:
            yield Violation(path, here, there, layer)
            return


def _shown(value: object) -> str:
    return "none" if value is None else str(value)
