"""Small file systems, for tests of a disk that is full or read-only."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def mounted(*words: object) -> bool:
    """Run mount with these words. Returns whether it succeeded."""
    return subprocess.run(["mount", *map(str, words)], check=False, capture_output=True).returncode == 0  # noqa: S607


@contextmanager
def small_file_system(place: Path, size: str) -> Iterator[Path]:
    """Mount a file system of a size such as "64k" at a new directory. Skips the test if this user may not mount."""
    place.mkdir()
    if os.getuid() or not mounted("-t", "tmpfs", "-o", f"size={size}", "none", place):
        pytest.skip("only root may mount a small disk")
    yield place
    subprocess.run(["umount", place], check=True)  # noqa: S607
