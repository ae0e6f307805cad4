"""Progress of slow stages on stderr."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from kept import progress_bars as progress

if TYPE_CHECKING:
    import pytest


def test_slow_stages_say_where_they_are(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 6))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with progress.ProgressBars().stage("write", 4_000_000, "bytes") as advance:
        for _ in range(4):
            advance(1_000_000)
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert re.fullmatch(r"write: 2 MB of 4 MB, \S+ KB per second, \d+ s left", lines[0])
    assert re.fullmatch(r"write: 4 MB in \d+\.0 s", lines[-1])


def test_one_item_has_no_rate_and_slow_items_show_seconds_per_item(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 0.0, 25.0, 50.0, 75.0, 75.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress.ProgressBars().stage("sample", 3, "texts") as advance:
        for _ in range(3):
            advance(1)
    assert capsys.readouterr().err.splitlines() == [
        "sample: 1 of 3 texts",
        "sample: 2 of 3 texts, 25.0 s per item, 25 s left",
        "sample: 3 texts in 75.0 s",
    ]


def test_quick_stages_say_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.ProgressBars().stage("write", 4, "layers") as advance:
        advance(4)
    assert capsys.readouterr() == ("", "")


def test_large_counts_have_a_unit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 20.0, 40.0, 40.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    with progress.ProgressBars().stage("export", 134_543_808, "parameters") as advance:
        for count in (126_576_384, 7_967_424):
            advance(count)
    assert capsys.readouterr().err.splitlines() == [
        "export: 126.6 of 134.5 M parameters",
        "export: 135 M parameters in 40.0 s",
    ]
