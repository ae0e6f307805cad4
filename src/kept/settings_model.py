"""Settings are frozen pydantic dataclasses: one source of parsing, defaults, limits, help texts and the JSON schema.

A subclass of `Settings` raises `RecipeError` with the key of the first wrong value. Types of values: `Directory`,
`File`, `Texts` (a list of texts or one text), `WholeNumbers`, `Date` and `Count` (2000000, or "2M").
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from kept.errors import RecipeError
from kept.setting_types import MOST, WRONG, OneOf, PathKind, nearest, not_a_choice
from kept.toml_file import load

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pydantic.fields import FieldInfo
    from pydantic_core import ArgsKwargs, ErrorDetails

CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, defer_build=True)
"""Values are not converted between types, unknown keys are errors, numbers are finite."""

TYPE_NAMES = {
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text in quotes",
    "finite_number": "a finite number",
    "tuple_type": "a list",
}
"""The expected type in words, by the type of pydantic's error."""


@dataclass(frozen=True, config=CONFIG)
class Settings:
    """Base class: a validation error becomes one `RecipeError`.

    `FORMER` maps former names of keys to their new names. `WHAT` is what error messages call a key.
    """

    FORMER: ClassVar[Mapping[str, str]] = {}
    WHAT: ClassVar[str] = "a key of a recipe"

    @model_validator(mode="wrap")
    @classmethod
    def _checked(cls, values: ArgsKwargs | dict[str, Any], validate: Callable[[Any], Self]) -> Self:
        try:
            return validate(values)
        except ValidationError as error:
            raise _recipe_error(cls, error.errors(include_url=False)) from None

    @classmethod
    def from_table(cls, table: Mapping[str, Any], **overrides: Any) -> Self:  # noqa: ANN401 - values of any key
        """Return settings from a TOML table; `overrides` that are not None win. Raises RecipeError."""
        values = merged(table, overrides)
        check_keys(values, cls)
        return cls(**values)

    @classmethod
    def load(cls, path: str | Path, **overrides: Any) -> Self:  # noqa: ANN401 - values of any key
        """Return settings from a TOML file; overrides that are not None win. Raises RecipeError with file and line."""
        return load(path, cls.from_table, overrides)


def model_fields(model: type[Settings]) -> Mapping[str, FieldInfo]:
    """Return the fields of a settings class by name."""
    return model.__pydantic_fields__  # type: ignore[attr-defined, no-any-return]  # of every pydantic dataclass


def json_schema(model: type[Settings]) -> dict[str, Any]:
    """Return the JSON schema of a settings class."""
    return TypeAdapter(model).json_schema()


def merged(table: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table updated with the overrides that are not None. Paths become text."""
    values = {key: value for layer in (table, overrides) for key, value in layer.items() if value is not None}
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


def check_keys(values: Collection[str], model: type[Settings]) -> None:
    """Raise RecipeError for the first key that is no field of a settings class, with the new name of a former one."""
    for key in values:
        if key not in model_fields(model):
            raise RecipeError(_unknown(model, key), key)


def check_choice(key: str, value: str, choices: Collection[str]) -> None:
    """Raise RecipeError if a value is none of the choices."""
    if value not in choices:
        raise RecipeError(not_a_choice(value, choices), key)


def choices(field: FieldInfo) -> tuple[str, ...]:
    """Return the words that a setting may be; () if it is not restricted to some words."""
    annotation, metadata = base_type(field.annotation)
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return next((one.words for one in (*metadata, *field.metadata) if isinstance(one, OneOf)), ())


def base_type(annotation: Any) -> tuple[Any, tuple[Any, ...]]:  # noqa: ANN401 - any annotation
    """Return the type of an annotation without `None` and `Annotated`, and the metadata of the latter."""
    if get_origin(annotation) in {Union, UnionType}:
        return base_type(next(part for part in get_args(annotation) if part is not NoneType))
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        found, more = base_type(inner)
        return found, (*more, *metadata)
    return annotation, ()


def path_kind(field: FieldInfo) -> PathKind | None:
    """Return whether a setting is a directory or a file; None if it is neither."""
    metadata = (*base_type(field.annotation)[1], *field.metadata)
    return next((one for one in metadata if isinstance(one, PathKind)), None)


def limits(field: FieldInfo) -> str:
    """Return the limits of a number as words, such as "at least 1" or "from 0 to 1"; "" if there are none."""
    above = next((one.gt for one in field.metadata if isinstance(one, Gt)), None)
    least = next((one.ge for one in field.metadata if isinstance(one, Ge)), None)
    below = next((one.lt for one in field.metadata if isinstance(one, Lt)), None)
    most = next((one.le for one in field.metadata if isinstance(one, Le) and one.le < MOST), None)  # type: ignore[operator]
    if above is not None and below is not None:
        return f"between {above} and {below}"
    if least is not None and most is not None:
        return f"from {least} to {most}"
    if above is not None and most is not None:
        return f"above {above} and at most {most}"
    if above is not None:
        return f"above {above}"
    return "" if least is None else f"at least {least}"


def _recipe_error(model: type[Settings], errors: list[ErrorDetails]) -> RecipeError:
    """Return the error for the first unknown key, else for the first wrong value."""
    first = min(errors, key=lambda error: error["type"] != "unexpected_keyword_argument")
    key = str(first["loc"][0]) if first["loc"] else ""
    return RecipeError(_problem(model, key, first), key)


def _problem(model: type[Settings], key: str, error: ErrorDetails) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "unexpected_keyword_argument":
        return _unknown(model, key)
    if kind == "missing":
        return "is missing; say where it is" if path_kind(model_fields(model)[key]) else "is missing"
    if kind == WRONG:
        return str(context["problem"])
    field = model_fields(model)[key]
    if kind == "literal_error":
        return not_a_choice(value, choices(field))
    if kind == "less_than_equal" and context["le"] >= MOST:
        return f"is too large, it must be at most {context['le']:.0f}"
    return f"is {value!r}, it must be {TYPE_NAMES.get(kind) or limits(field) or 'another kind of value'}"


def _unknown(model: type[Settings], key: str) -> str:
    if key in model.FORMER:
        return f"is now {model.FORMER[key]}"
    return f"is not {model.WHAT}{nearest(key, model_fields(model))}"
