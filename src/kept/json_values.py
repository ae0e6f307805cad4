"""Check plain data from JSON files that anyone may have edited."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from kept.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def blamed(file: Path, part: str, way_out: str) -> Iterator[None]:
    """Raise CheckpointError with the file, the part and the way out for an error of the code that reads the part."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{file}: {part} is not as kept writes it ({why}); {way_out}") from None


def number(value: object) -> float:
    """Return a float; NaN for null, which stands for NaN and Inf in JSON. Raises TypeError for other types."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value)


def whole(value: object) -> int:
    """Return an int. Raises TypeError for other types."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no whole number")
    return value


def text(value: object) -> str:
    """Return a text. Raises TypeError for other types."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def listed(value: object) -> list[Any]:
    """Return a list. Raises TypeError for other types."""
    if not isinstance(value, list):
        raise TypeError(f"{value!r} is no list")
    return value


def mapped(value: object) -> dict[str, Any]:
    """Return an object as a dict. Raises TypeError for other types."""
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no object")
    return value
