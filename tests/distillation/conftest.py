"""A pair of models and a corpus for the tests of the loop."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

import kept
from support.stored import write_readable

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
    """Lines of nine words, each line another."""
    file = tmp_path_factory.mktemp("corpus") / "lines.jsonl"
    words = ["once", "upon", "a", "time", "there", "was", "an", "old", "fox"]
    lines = [" ".join(words[(i * k) % 9] for k in range(1, 30)) for i in range(400)]
    file.write_text("".join(json.dumps({"text": f"{i} {line}"}) + "\n" for i, line in enumerate(lines)))
    return file


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tokens are kept where the tests are, not with the user."""
    folder: Path = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder
