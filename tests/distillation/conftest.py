"""Tests of distillation never touch the user's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _own_cache(cache: Path) -> None:
    """Every test of this package has the test run's cache."""
