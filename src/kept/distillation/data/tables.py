"""Rows of text tables: JSON arrays, and tables with a header whose columns are separated by commas or tabs."""

from __future__ import annotations

import csv
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from kept.distillation.data.text_files import LONGEST, lines, opened_text
from kept.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PART = 1 << 20
"""Characters of an array that are read at once, at least."""

BETWEEN = " \t\r\n,"
"""Characters between the elements of an array; a missing comma is not noticed."""

SEPARATORS = {".csv": ",", ".tsv": "\t"}


def begins_array(path: Path) -> bool:
    """Whether the first character of a JSON file that is not white space opens an array."""
    with opened_text(path) as file:
        return file.read(PART).removeprefix("\ufeff").lstrip().startswith("[")


def array_rows(path: Path) -> Iterator[tuple[int, Any, int]]:
    """Yield each element of a JSON array with its number, counted from 1, and its size in bytes.

    Elements are decoded one at a time. Raises InputError for an element that is no object, or of more than `LONGEST`
    characters, and for text after the array.
    """
    decoder, number = json.JSONDecoder(), 0
    with opened_text(path) as file:
        held = file.read(PART).removeprefix("\ufeff").lstrip().removeprefix("[")
        while True:
            held = held.lstrip(BETWEEN) or file.read(PART).lstrip(BETWEEN)
            if held.startswith("]"):
                _end(path, held[1:], file.read(PART))
                return
            number += 1
            row, at, held = _element(path, number, held, file, decoder)
            yield number, row, len(held[:at].encode("utf-8", "surrogatepass"))
            held = held[at:]


def _element(path: Path, number: int, held: str, file: Any, decoder: json.JSONDecoder) -> tuple[Any, int, str]:  # noqa: ANN401 - a text stream
    """Return the element at the beginning of `held`, where it ends, and `held` with what was read for it."""
    while True:
        if held[:1] not in ("{", ""):
            raise InputError(f"{path}: element {number} of the array is not a JSON object; correct it")
        try:
            row, at = decoder.raw_decode(held)
        except (ValueError, RecursionError) as error:
            # Reading as much again as is held keeps the work linear in the element's length.
            more = file.read(max(PART, len(held)))
            if not more:
                wrong = f"{path}: element {number} of the array is not JSON ({error}); correct it"
                raise InputError(wrong) from None
            held += more
        else:
            return row, at, held
        if len(held) > LONGEST:
            raise InputError(f"{path}: element {number} of the array has more than {LONGEST >> 20} MB; split it")


def _end(path: Path, rest: str, more: str) -> None:
    if rest.strip() or more.strip():
        raise InputError(f"{path}: has text after the end of its array; remove it")


def table_rows(path: Path, separator: str) -> Iterator[tuple[int, dict[str, Any], int]]:
    """Yield each row of a table as a mapping by column, with the line where it ends and its size in bytes.

    The first line names the columns. A row that is too short has null in the columns that it lacks. Raises InputError
    for two columns of one name, and for a row that is too long or not as RFC 4180 has it.
    """
    csv.field_size_limit(LONGEST)
    reader = csv.DictReader(lines(path, newline=""), delimiter=separator, strict=True)
    try:
        names = [name.removeprefix("\ufeff") for name in reader.fieldnames or ()]
        twice = next((name for name, count in Counter(names).items() if count > 1), None)
        if twice is not None:
            raise InputError(f"{path}: has two columns {twice[:60]!r}; rename or drop one")
        reader.fieldnames = names
        for row in reader:
            if None in row:
                raise InputError(f"{path}: line {reader.line_num} has more fields than the header; quote its text")
            size = sum(len(value.encode()) for value in row.values() if value)
            yield reader.line_num, row, size
    except csv.Error as error:
        raise InputError(
            f"{path}: line {reader.reader.line_num} is not a row of a table ({error}); correct it"
        ) from None
