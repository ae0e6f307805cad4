"""Reads TOML recipes within limits of size and depth, and adds file and line to the errors of their settings."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kept.errors import RecipeError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Made = TypeVar("Made")

LONGEST = 1 << 20
"""Bytes of a TOML file."""

DEEPEST = 32
"""Nesting depth of tables and lists."""

NESTED = f"is nested more than {DEEPEST} levels deep"

DOTTED = re.compile(rf"""(?<![\w-])(?:(?:[\w-]+|"[^"\n]*"|'[^'\n]*')[ \t]*\.[ \t]*){{{DEEPEST}}}""")
"""A dotted key of more than `DEEPEST` parts; tomllib takes quadratic time for it."""


def load(path: str | Path, make: Callable[..., Made], overrides: Mapping[str, Any]) -> Made:
    """Return `make(table, **overrides)` for the table of a TOML file.

    Raises RecipeError with file, line and key; if the wrong value is an override, with the key alone.
    """
    file = Path(path)
    try:
        text = _read_bounded(file)
        table = tomllib.loads(text)
        _require_plain(table)
    except FileNotFoundError:
        raise RecipeError("there is no such recipe", file=file) from None
    except OSError as error:
        raise RecipeError(f"cannot be read ({error.strerror}); name a TOML file", file=file) from None
    except ValueError as error:  # tomllib raises ValueError itself for an integer of thousands of digits
        raise RecipeError(str(error), file=file) from None
    except RecursionError:
        raise RecipeError(NESTED, file=file) from None
    try:
        return make(table, **overrides)
    except RecipeError as error:
        if overrides.get(error.key) is not None:
            raise
        raise error.located(file, line_of(text, error.loc)) from None


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
    """Raise ValueError for nesting deeper than `DEEPEST`, an integer of more than 64 bits, and U+0000 in a text."""
    if depth > DEEPEST:
        raise ValueError(NESTED)
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"has an integer of {value.bit_length()} bits, TOML allows 64")
    if isinstance(value, str) and "\0" in value:
        raise ValueError("has a text with the character U+0000, which no path and no word has")
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _require_plain(inner, depth + 1)


def line_of(text: str, loc: Sequence[str | int]) -> int | None:
    """Return the line of a TOML text that sets the key at `loc`, else that of the table around it, else None."""
    lines = text.splitlines()
    if len(loc) < 2 or not isinstance(loc[1], int):
        return _line_with(lines, rf'\s*"?{re.escape(str(loc[0]))}"?\s*=') if loc else None
    heads = [at for at, line in enumerate(lines) if re.match(rf"\s*\[\[\s*{loc[0]}\s*\]\]", line)]
    if loc[1] >= len(heads):
        return line_of(text, loc[:1])
    begin, end = heads[loc[1]], next(iter(heads[loc[1] + 1 :]), None)
    key = re.escape(str(loc[-1]))
    found = _line_with(lines[begin:end], rf'\s*"?{key}"?\s*=|.*[{{,]\s*"?{key}"?\s*=')
    return begin + (found or 1)


def _line_with(lines: Sequence[str], pattern: str) -> int | None:
    return next((at for at, line in enumerate(lines, 1) if re.match(pattern, line)), None)
