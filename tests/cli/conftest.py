"""Fixtures of the command line's tests: a small model and what `kept convert` makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import kept
from support.stored import write_readable

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def orion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_readable(tmp_path_factory.mktemp("sources") / "orion", "orion")


@pytest.fixture(scope="session")
def out(tmp_path_factory: pytest.TempPathFactory, orion: Path) -> Path:
    return kept.convert(orion, tmp_path_factory.mktemp("made") / "out", verify_tokens=0).path
