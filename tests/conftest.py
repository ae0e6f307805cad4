"""Settings of every test: one thread, quiet libraries, the same examples each time. Fixtures for several packages."""

from __future__ import annotations

import gc
import json
import os
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of commands that tests start, too

import pytest
import torch
import transformers
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

pytest.register_assert_rewrite("support")

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

settings.register_profile(
    "kept",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("kept")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage while modules and tests are collected, and leave them out of every later collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put files with slow tests first, so that no worker starts a long file while the others have none left."""
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An Orion and the plain Llama that norm mode `opm` makes of it."""
    import kept
    from support.stored import write_readable

    folder = tmp_path_factory.mktemp("pair")
    orion = write_readable(folder / "orion", "orion")
    kept.convert(orion, folder / "plain", norm="opm", verify_tokens=0, dtype="float32")
    return orion, folder / "plain"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Lines of the same nine words in different orders."""
    file = tmp_path_factory.mktemp("corpus") / "lines.jsonl"
    words = ["once", "upon", "a", "time", "there", "was", "an", "old", "fox"]
    lines = [" ".join(words[(i * k) % 9] for k in range(1, 30)) for i in range(400)]
    file.write_text("".join(json.dumps({"text": f"{i} {line}"}) + "\n" for i, line in enumerate(lines)))
    return file


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of the test run that stands for the user's cache of tokenised texts."""
    folder: Path = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder
