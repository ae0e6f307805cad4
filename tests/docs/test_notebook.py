"""The notebook runs, and its stored outputs are what it gives."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]

NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e[+-]\d+)?")


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return import_module("generators.notebook")


def outputs(found: dict[str, Any]) -> list[str]:
    """The text of each output."""
    every = [output for cell in found["cells"] for output in cell.get("outputs", ())]
    return ["".join(one.get("data", {}).get("text/plain", one.get("text", ""))) for one in every]


def test_its_outputs_are_those_of_its_cells(
    notebook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    """Words are equal. Numbers of a training may differ between processors, by less than a tenth."""
    stored = notebook.load()
    monkeypatch.chdir(tmp_path)
    found = notebook.executed(stored)
    for one, other in zip(outputs(stored), outputs(found), strict=True):
        assert NUMBER.sub("#", one) == NUMBER.sub("#", other)
        numbers, others = (list(map(float, NUMBER.findall(text))) for text in (one, other))
        assert others == pytest.approx(numbers, rel=0.1)
    (trained,) = [one for one in outputs(found) if one.startswith("HealResult")]
    before, after = map(float, re.findall(r"held-out loss: ([\d.]+) -> ([\d.]+)", trained)[0])
    assert after < before / 2


def test_a_cell_shows_its_last_expression_as_a_table(notebook: Any) -> None:
    def shown(source: str) -> list[Any]:
        found: list[Any] = notebook.executed({"cells": [{"cell_type": "code", "source": [source]}]})["cells"][0][
            "outputs"
        ]
        return found

    said, value = shown("class Table:\n    def _repr_html_(self): return '<b>'\n\nprint('said')\nTable()")
    assert said["text"] == ["said\n"]
    assert value["data"]["text/html"] == ["<b>"]
    assert [one["data"] for one in shown("x = 1\nx")] == [{"text/plain": ["1"]}]
    assert shown("x = 1") == []
    with pytest.raises(ZeroDivisionError):
        shown("1 / 0")


def test_tables_are_stored(notebook: Any) -> None:
    html = [o["data"].get("text/html") for c in notebook.load()["cells"] for o in c.get("outputs", ()) if "data" in o]
    assert sum(one is not None for one in html) == 5
