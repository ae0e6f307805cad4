"""JSON from files that anyone may have made: small, strict, and with a bounded number of values."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from kept.checkpoint.disk import regular
from kept.errors import CheckpointError, reason

if TYPE_CHECKING:
    from pathlib import Path

LARGEST_JSON = 100_000_000
"""Bytes; the limit of a safetensors header."""

MOST_VALUES = 1 << 20
"""Values in a file of a checkpoint: lists, objects, and what they hold. A shard of 131,072 tensors has as many."""

MOST_IN_RESULTS = 1 << 22
"""Values in a file of results, or in a `tokenizer.json`. Vocabulary and merges of 256,000 tokens are half of that."""

SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""An escape that may be half a character."""


def read_json(file: Path, most: int = MOST_VALUES) -> dict[str, Any]:
    """A JSON object of at most `most` values. Raises CheckpointError naming the file."""
    try:
        value = parse(_whole(file), most)
    except FileNotFoundError:
        raise CheckpointError(f"{file}: missing; a checkpoint directory needs it") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({reason(error)})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: holds no JSON object")
    return value


def json_if_there(file: Path) -> dict[str, Any]:
    """A JSON object, empty where there is no file. Raises CheckpointError naming the file."""
    return read_json(file) if file.is_file() else {}


def _whole(file: Path) -> bytes:
    """The bytes of a small file. Raises OSError, and ValueError for one that is not small."""
    with open(file, "rb", opener=regular) as opened:
        size = os.fstat(opened.fileno()).st_size
        if size > LARGEST_JSON:
            raise ValueError(f"it has {size} bytes, more than {LARGEST_JSON}")
        return opened.read(LARGEST_JSON)


def parse(raw: bytes, most: int = MOST_VALUES) -> Any:  # noqa: ANN401 - JSON
    """JSON as strict as it is safe: UTF-8, no key twice, no half of a surrogate pair, which no file could hold again.

    Raises ValueError or RecursionError; before anything is made of it where there are more than `most` values.
    """
    values = sum(map(raw.count, (b"[", b"{", b",")))
    if values > most:
        raise ValueError(f"it has about {values} values, more than {most}")
    value = json.loads(raw.decode("utf-8"), object_pairs_hook=_once)
    if SURROGATE.search(raw) is not None:
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text in it holds half of a surrogate pair") from None
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object. Readers differ on which of two equal keys counts."""
    found = dict(pairs)
    if len(found) < len(pairs):
        ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice[:60]!r} is there twice")
    return found
