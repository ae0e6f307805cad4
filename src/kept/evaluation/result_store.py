"""Results of measurements on disk, stored under a hash of everything that the result depends on."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import MOST_IN_RESULTS, read_json
from kept.checkpoint.json_model import JsonModel
from kept.checkpoint.small_files import refused, write_whole
from kept.errors import CheckpointError
from kept.evaluation.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


WAY_OUT = "remove it to measure again"


class StoredResult(JsonModel):
    """The file of a result: everything that it depends on, what was found, and the sha256 of that.

    Files of earlier versions have no sum.
    """

    key: dict[str, Any]
    found: dict[str, Any]
    sum: str | None = None


def sum_of(value: object) -> str:
    """Return the sha256 of JSON data, in hexadecimal."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _checked(file: Path, key: Mapping[str, Any], read: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the result in a file. Raises CheckpointError, ValueError or whatever `read` raises if it is damaged."""
    try:
        content = read_json(file, MOST_IN_RESULTS)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {WAY_OUT}") from None
    result = StoredResult.checked(content)
    if sum_of(result.key) != sum_of(key):
        raise ValueError("its key is another one")
    if result.sum is not None and result.sum != sum_of(result.found):
        raise ValueError("it was changed after it was written")
    read(result.found)
    return result.found


@contextmanager
def _damage(file: Path) -> Iterator[None]:
    """Raise CheckpointError for an error of a function that reads the result in a file."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"{file}: a result is not as kept writes it ({why}); {WAY_OUT}") from None


class Store:
    """A directory with one JSON file per measurement: its key and result. `journal` has the unfinished measurement."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.journal = Journal()

    def get(
        self,
        name: str,
        key: Mapping[str, Any],
        measure: Callable[[], dict[str, Any]],
        read: Callable[[dict[str, Any]], object] = dict,
    ) -> dict[str, Any]:
        """Return the stored result for a key; without one, call `measure` and store its result.

        `read` checks a stored result: if it raises, the file is damaged. Raises OutputError if the file cannot be
        written, CheckpointError if it is damaged.
        """
        file = self.directory / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}-{sum_of(key)[:16]}.json"
        begun = file.with_suffix(".begun")
        with refused(file):
            if file.is_file():
                begun.unlink(missing_ok=True)
                with _damage(file):
                    return _checked(file, key, read)
            self.directory.mkdir(parents=True, exist_ok=True)
        with self.journal.kept_in(begun, sum_of(key)):
            found = measure()
        sum_read = sum_of(json.loads(json.dumps(found)))  # keys that are numbers become texts in JSON
        content = {"name": name, "key": dict(key), "found": found, "sum": sum_read}
        with refused(file):
            write_whole(file, json.dumps(content, ensure_ascii=False).encode())
            begun.unlink(missing_ok=True)
        return found
