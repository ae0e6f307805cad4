"""Types of setting values: how each is parsed, what is wrong with a value, and its JSON schema.

`Directory`, `File`, `Texts` (a list of texts or one text), `WholeNumbers`, `Date`, and numbers such as "2M" (`count`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date
from difflib import get_close_matches
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

if TYPE_CHECKING:
    from collections.abc import Collection

    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler

MOST = 10**9
"""Upper limit of numbers that have no limit of their own."""

SIZES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9}
"""Suffixes of numbers that `count` reads."""

WHOLE_NUMBERS = r"^\s*[0-9]{1,9}(\s*,\s*[0-9]{1,9})*\s*$"
"""A list of whole numbers written as text, such as 4,9,14."""


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


WRONG = "wrong_value"
"""Type of the errors that our own validators raise; `problem` in their context is the message."""


def wrong(problem: str) -> PydanticCustomError:
    """Return the error to raise in a validator of a field."""
    return PydanticCustomError(WRONG, "{problem}", {"problem": problem})


@dataclass(frozen=True)
class PathKind:
    """Marks a text as a path, for completion in shells and editors."""

    kind: Literal["dir", "file"]
    metavar: str


@dataclass(frozen=True)
class OneOf:
    """Restricts a text to words that are known only at run time, such as the names of families.

    `aliases` are pairs of another word and the one that it stands for; a setting has the latter.
    """

    words: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...] = ()

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of a text with this check."""
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the JSON schema with the words."""
        return {**handler(schema), "enum": [*self.words, *(alias for alias, _ in self.aliases)]}

    def _checked(self, value: str) -> str:
        word = dict(self.aliases).get(value, value)
        if word not in self.words:
            raise wrong(not_a_choice(value, self.words))
        return word


def _texts(value: object) -> object:
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise wrong(f"is {value!r}, it must be a list of texts in quotes")
    return tuple(value)


def _whole_numbers(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(WHOLE_NUMBERS, value, re.ASCII):
        return tuple(map(int, value.split(",")))
    if not isinstance(value, list | tuple) or not all(type(item) is int for item in value):
        raise wrong(f"is {value!r}, it must be a list of whole numbers, as 4,9,14")
    return tuple(value)


def count(value: object) -> int:
    """Return a number such as 2000000, "2M", "500K" or "1.5B". Raises PydanticCustomError for anything else."""
    if type(value) is int:
        return value
    written = "" if isinstance(value, bool) else str(value).strip().replace("_", "").upper()
    match = re.fullmatch(r"(\d{1,18}(?:\.\d{1,18})?)\s*([KMB]?)", written, re.ASCII)
    number = Fraction(match[1]) * SIZES[match[2]] if match is not None else Fraction(1, 2)
    if number.denominator != 1:
        raise wrong(f"is {value!r}, write it as 2M, 500K or 2000000")
    return int(number)


def count_schema(least: int, most: int) -> WithJsonSchema:
    """Return the JSON schema of a number that `count` reads."""
    text = r"^\s*(?=.*[1-9])[0-9][0-9_]*((\.[0-9_]+)?\s*[KMBkmb])?\s*$"
    number = {"type": "integer", "minimum": least, "maximum": most}
    return WithJsonSchema({"anyOf": [number, {"type": "string", "pattern": text}]})


def _day(value: object) -> object:
    if not isinstance(value, str) or not is_date(value):
        raise wrong(f"is {value!r}, it must be a date such as 2026-01-31")
    return value


def texts_schema(**limits: object) -> WithJsonSchema:
    """Return the JSON schema of a text or a list of texts, with `limits` on the list or its `items`."""
    return WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, **limits}]})


Directory = Annotated[str, PathKind("dir", "DIR")]
File = Annotated[str, PathKind("file", "FILE")]
Texts = Annotated[tuple[str, ...], BeforeValidator(_texts), texts_schema()]
WholeNumbers = Annotated[
    tuple[int, ...],
    BeforeValidator(_whole_numbers),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "array", "items": {"type": "integer"}},
                {"type": "string", "pattern": WHOLE_NUMBERS},
            ]
        }
    ),
]
Date = Annotated[str, BeforeValidator(_day), WithJsonSchema({"type": "string", "format": "date"})]
