"""Finished pieces of an evaluation on disk: each is measured once, and found again by what it was made from."""

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


WAY_OUT = "remove it, and it is measured again"


def sum_of(value: object) -> str:
    """A sha256 of plain data, in hexadecimal."""
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _checked(file: Path, key: Mapping[str, Any], read: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """What a file holds. Raises what reading it trips over."""
    try:
        content = read_json(file, MOST_IN_RESULTS)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {WAY_OUT}") from None
    if sum_of(content["key"]) != sum_of(key):
        raise ValueError("it is of something else")
    found = mapped(content["found"])
    read(found)
    return found


class Store:
    """A directory with one JSON file for each piece: its key and its result. `journal` has the unfinished piece."""

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
        """What an earlier run found for this key, or what `measure` finds now, which is then kept.

        `read` is what will be made of it: a file that it trips over is damaged. Raises OutputError where it cannot be
        written, CheckpointError for a file that is damaged.
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
