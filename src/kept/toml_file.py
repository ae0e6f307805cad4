"""Files in which users say what they want: what is wrong with one is told with its file, its line and its key."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kept.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    Made = TypeVar("Made")

KINDS: Mapping[str, tuple[tuple[type, ...], str]] = {
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
    "str": ((str,), "text in quotes"),
}
"""What a value may be, by the beginning of an annotation, and how that is said."""

LONGEST = 1 << 20
"""Bytes of a TOML file."""

DEEPEST = 32
"""Nesting depth of tables and lists."""

NESTED = f"is nested more than {DEEPEST} levels deep"

DOTTED = re.compile(rf"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{DEEPEST}}}""")
"""A dotted key of more than `DEEPEST` parts; tomllib takes quadratic time for it."""


def load(path: str | Path, make: Callable[..., Made], overrides: Mapping[str, Any]) -> Made:
    """What `make` makes of a file's table; `overrides` (None: not given) win over it.

    Raises RecipeError naming file, line and key; of what an override says wrong, the key alone.
    """
    file = Path(path)
    try:
        text = _read_bounded(file)
        table = tomllib.loads(text)
        _require_plain(table)
    except FileNotFoundError:
        raise RecipeError(f"{file}: there is no such recipe") from None
    except OSError as error:
        raise RecipeError(f"{file}: cannot be read ({error.strerror}); name a TOML file") from None
    except ValueError as error:  # tomllib raises ValueError itself for an integer of thousands of digits
        raise RecipeError(f"{file}: {error}") from None
    except RecursionError:
        raise RecipeError(f"{file}: {NESTED}") from None
    try:
        return make(table, **overrides)
    except RecipeError as error:
        if overrides.get(str(error).split(":", 1)[0]) is not None:
            raise
        raise RecipeError(f"{file}{_line(text, str(error))}: {error}") from None


def _read_bounded(file: Path) -> str:
    """Return the text of a file. Raises OSError, and ValueError if it is too long or has too deep keys."""
    with file.open("rb") as opened:
        raw = opened.read(LONGEST + 1)
    if len(raw) > LONGEST:
        raise ValueError(f"has more than {LONGEST >> 20} MB; is it a recipe?")
    text = raw.decode("utf-8")
    if DOTTED.search(text):
        raise ValueError(NESTED)
    return text


def _require_plain(value: object, depth: int = 0) -> None:
    """Raise ValueError for nesting deeper than `DEEPEST` and for an integer of more than 64 bits."""
    if depth > DEEPEST:
        raise ValueError(NESTED)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"has an integer of {value.bit_length()} bits, TOML allows 64")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _require_plain(inner, depth + 1)


def merged(table: Mapping[str, Any], overrides: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    """A table with what wins over it; paths become text. Raises RecipeError for a key that is not known."""
    given = {key: value for layer in (table, overrides) for key, value in layer.items() if value is not None}
    unknown = next((key for key in given if key not in known), None)
    if unknown is not None:
        raise RecipeError(f"{unknown}: is not a key of a recipe{nearest(unknown, known)}")
    return {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}


def check_type(key: str, value: object, hint: str) -> None:
    """Raise RecipeError where a value is not what an annotation says; true and false are no numbers."""
    kinds, words = next((kind for name, kind in KINDS.items() if hint.startswith(name)), KINDS["str"])
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise RecipeError(f"{key}: is {value!r}, it must be {words}")


def texts(key: str, value: object) -> tuple[str, ...]:
    """A list of texts. Raises RecipeError where it is none."""
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise RecipeError(f"{key}: is {value!r}, it must be a list of texts in quotes")
    return tuple(value)


def one_of(key: str, value: str, words: Collection[str]) -> None:
    """Raise RecipeError where a value is none of some words."""
    if value not in words:
        raise RecipeError(f"{key}: is {value!r}{nearest(value, words)}; it must be one of {', '.join(words)}")


def is_date(text: str) -> bool:
    """Return whether a text is a date of the form YYYY-MM-DD."""
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def nearest(word: str, words: Collection[str]) -> str:
    """A question after the word that was meant, if one is near."""
    near = get_close_matches(word, list(words), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _line(text: str, error: str) -> str:
    """`:line` of the key that an error begins with, in the pass or step that it names."""
    kind, number, key = re.findall(r"^(?:(pass|step) (\d+): )?(?:pass \d+: )?([^:]*)", error)[0]
    lines = [*enumerate(text.splitlines(), 1)]
    table = {"pass": "passes", "step": "steps"}.get(kind, "")
    heads = [at for at, line in lines if table and re.match(rf"\s*\[\[\s*{table}\s*\]\]", line)]
    place = int(number) if number and int(number) <= len(heads) else 0
    begin, end = (heads[place - 1], heads[place:][:1]) if place else (0, [])
    for at, line in lines[begin : end[0] - 1 if end else None]:
        if re.match(rf'\s*"?{re.escape(key)}"?\s*=', line) or (number and f'"{key}"' in line):
            return f":{at}"
    return f":{begin}" if begin else ""
