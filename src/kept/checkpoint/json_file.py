"""Read JSON from untrusted files, with bounds on bytes and on the number of values, and write JSON."""

from __future__ import annotations

import json
import math
import os
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from kept.checkpoint.small_files import regular
from kept.errors import CheckpointError, reason

if TYPE_CHECKING:
    from pathlib import Path

LARGEST_JSON = 100_000_000
"""Bytes of a JSON file; the format's own limit for a safetensors header."""

MOST_VALUES = 1 << 20
"""Values (scalars, lists, objects) in a checkpoint's JSON file; the header of 131,072 tensors has as many."""

MOST_IN_RESULTS = 1 << 22
"""Values in a results file or a `tokenizer.json`; a vocabulary of 256,000 tokens with its merges has half of that."""

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""A JSON escape of a surrogate, which may lack its other half."""


def read_json(file: Path, most: int = MOST_VALUES) -> dict[str, Any]:
    """Return the JSON object of a file with at most `most` values. Raises CheckpointError naming the file."""
    try:
        value = parse(_read_small(file), most)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; a checkpoint directory needs it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({reason(error)})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: holds no JSON object")
    return value


def json_if_there(file: Path) -> dict[str, Any]:
    """Return the JSON object of a file, or {} if there is no file. Raises CheckpointError naming the file."""
    return read_json(file) if file.is_file() else {}


def _read_small(file: Path) -> bytes:
    """Return the bytes of a file. Raises OSError, and ValueError above `LARGEST_JSON` bytes."""
    with open(file, "rb", opener=regular) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size > LARGEST_JSON:
            raise ValueError(f"it has {size} bytes, more than {LARGEST_JSON}")
        return opened.read(LARGEST_JSON)


def parse(raw: bytes, most: int = MOST_VALUES) -> Any:  # noqa: ANN401 - JSON
    """Return the value of a JSON text in UTF-8. Raises ValueError or RecursionError.

    Duplicate keys and unpaired surrogates, which could not be written as UTF-8 again, are errors. The number of values
    is estimated before parsing and must not exceed `most`.
    """
    values = sum(map(raw.count, (b"[", b"{", b",")))
    if values > most:
        raise ValueError(f"it has about {values} values, more than {most}")
    value = json.loads(raw.decode("utf-8"), object_pairs_hook=_object)
    if SURROGATE.search(raw) is not None:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a string in it has half of a surrogate pair") from None
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object. Raises ValueError for a duplicate key, because JSON readers differ on which value counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:60]!r} occurs twice")
    return found


def to_json(value: object) -> bytes:
    """Return JSON as checkpoints have it: indented by two spaces, with a newline at the end, in UTF-8.

    Unpaired surrogates, which stand for bytes of a path that are not UTF-8, are escaped.
    """
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def finite(value: Any) -> Any:  # noqa: ANN401 - any plain data
    """Return the same data with None for NaN and Inf, which JSON does not have."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
