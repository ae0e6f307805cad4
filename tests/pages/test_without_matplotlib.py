"""A page without matplotlib, an optional package, says in words what its charts would show."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

import kept
from support.models import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_charts_are_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = kept.convert(write_checkpoint(tmp_path / "source", "orion"), tmp_path / "out").path
    with_charts = kept.report(out, tmp_path / "a.html").path.read_text(encoding="utf-8")
    known = importlib.util.find_spec
    hidden: Any = lambda name, *rest: None if name == "matplotlib" else known(name, *rest)  # noqa: E731
    monkeypatch.setattr("kept.pages.page.find_spec", hidden)
    without = kept.report(out, tmp_path / "b.html").path.read_text(encoding="utf-8")
    assert "<svg" in with_charts
    assert "kept[report]" not in with_charts
    assert without.count("kept[report]") >= 1
