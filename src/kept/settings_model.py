"""Settings are frozen pydantic dataclasses: one source of parsing, defaults, limits, help texts and the JSON schema.

A subclass of `Settings` raises `RecipeError` with the key of the first wrong value. Types of values: `Directory`,
`File`, `Texts` (a list of texts or one text), `WholeNumbers`, `Date` and `Count` (2000000, or "2M").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass as plain_dataclass
from datetime import date
from difflib import get_close_matches
from fractions import Fraction
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError, WithJsonSchema, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs, CoreSchema, PydanticCustomError, core_schema

from kept.errors import RecipeError
from kept.toml_file import load

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

CONFIG = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, defer_build=True)
"""Values are not converted between types, unknown keys are errors, numbers are finite."""

MOST = 10**9
"""Upper limit of numbers that have no limit of their own."""

SIZES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
"""Suffixes of a `Count`."""

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


def not_a_choice(value: object, choices: Collection[str]) -> str:
    """Return the message for a value that is none of the choices."""
    near = nearest(value, choices) if isinstance(value, str) else ""
    return f"is {value!r}{near}; it must be one of {', '.join(choices)}"


def nearest(word: str, words: Collection[str]) -> str:
    """Return "; did you mean X?" if a word is close to one of the known words, else an empty text."""
    near = get_close_matches(word, list(words), 1)
    return f"; did you mean {near[0]}?" if near else ""


def is_date(text: str) -> bool:
    """Return whether a text is a date of the form YYYY-MM-DD."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


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


WRONG = "wrong_value"
"""Type of the errors that our own validators raise; `problem` in their context is the message."""


def wrong(problem: str) -> PydanticCustomError:
    """Return the error to raise in a validator of a field."""
    return PydanticCustomError(WRONG, "{problem}", {"problem": problem})


@plain_dataclass(frozen=True)
class PathKind:
    """Marks a text as a path, for completion in shells and editors."""

    kind: Literal["dir", "file"]
    metavar: str


@plain_dataclass(frozen=True)
class OneOf:
    """Restricts a text to words that are known only at run time, such as the names of families."""

    words: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of a text with this check."""
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the JSON schema with the words."""
        return {**handler(schema), "enum": [*self.words]}

    def _checked(self, value: str) -> str:
        if value not in self.words:
            raise wrong(not_a_choice(value, self.words))
        return value


def _texts(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise wrong(f"is {value!r}, it must be a list of texts in quotes")
    return tuple(value)


def _whole_numbers(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"\s*\d{1,9}(\s*,\s*\d{1,9})*\s*", value, re.ASCII):
        return tuple(map(int, value.split(",")))
    if not isinstance(value, list | tuple) or not all(type(item) is int for item in value):
        raise wrong(f"is {value!r}, it must be a list of whole numbers, as 4,9,14")
    return tuple(value)


def count(value: object) -> int:
    """Return a number such as 2000000, "2M", "500K" or "1.5B". Raises PydanticCustomError for anything else."""
    written = "" if isinstance(value, bool) else str(value).strip().replace("_", "").upper()
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMB]?)", written, re.ASCII)
    number = Fraction(match[1]) * SIZES[match[2]] if match is not None else Fraction(1, 2)
    if number.denominator != 1:
        raise wrong(f"is {value!r}, write it as 2M, 500K or 2000000")
    return int(number)


def _day(value: object) -> object:
    if not isinstance(value, str) or not is_date(value):
        raise wrong(f"is {value!r}, it must be a date such as 2026-01-31")
    return value


TEXT_OR_TEXTS = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}

Directory = Annotated[str, PathKind("dir", "DIR")]
File = Annotated[str, PathKind("file", "FILE")]
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts), WithJsonSchema(TEXT_OR_TEXTS)]
WholeNumbers = Annotated[tuple[int, ...], BeforeValidator(_whole_numbers)]
Date = Annotated[str, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
Count = Annotated[
    int,
    BeforeValidator(count),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^[\d_.]+ *[KMBkmb]?$"}]}),
]
