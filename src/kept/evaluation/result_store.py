"""Results of measurements on disk, stored under a hash of everything that the result depends on."""

from __future__ import annotations

import json
import re
from hashlib import sha256
from typing import TYPE_CHECKING, Any

from kept.checkpoint.json_file import MOST_IN_RESULTS, read_json
from kept.checkpoint.small_files import refused, write_whole
from kept.errors import CheckpointError
from kept.evaluation.journal import Journal
from kept.json_values import blamed, mapped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


WAY_OUT = "remove it to measure again"


def sum_of(value: object) -> str:
    """Return the sha256 of JSON data, in hexadecimal."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _checked(file: Path, key: Mapping[str, Any], read: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Return the result in a file. Raises CheckpointError, ValueError or whatever `read` raises if it is damaged."""
    try:
        content = read_json(file, MOST_IN_RESULTS)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {WAY_OUT}") from None
    if sum_of(content["key"]) != sum_of(key):
        raise ValueError("its key is another one")
    found = mapped(content["found"])
    read(found)
    return found


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
        if file.is_file():
            begun.unlink(missing_ok=True)
            with blamed(file, "a result", WAY_OUT):
                return _checked(file, key, read)
        with refused(file):
            self.directory.mkdir(parents=True, exist_ok=True)
        with self.journal.kept_in(begun, sum_of(key)):
            found = measure()
        content = {"name": name, "key": dict(key), "found": found}
        with refused(file):
            write_whole(file, json.dumps(content, ensure_ascii=False).encode())
            begun.unlink(missing_ok=True)
        return found
