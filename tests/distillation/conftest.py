"""What the tests of healing run on: an Orion, the plain Llama that is made of it, and texts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import kept
from stored import write_readable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An Orion and the plain Llama that `opm` makes of it."""
    folder = tmp_path_factory.mktemp("pair")
    orion = write_readable(folder / "orion", "orion")
    kept.convert(orion, folder / "plain", norm="opm", verify_tokens=0, dtype="float32")
    return orion, folder / "plain"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("corpus") / "lines.jsonl"
    words = ["once", "upon", "a", "time", "there", "was", "an", "old", "fox"]
    lines = [" ".join(words[(i * k) % 9] for k in range(1, 30)) for i in range(400)]
    file.write_text("".join(json.dumps({"text": f"{i} {line}"}) + "\n" for i, line in enumerate(lines)))
    return file
