"""Finished pieces: measured once, found by their key, never half there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from kept.errors import CheckpointError, OutputError
from kept.evaluation.result_store import Store

if TYPE_CHECKING:
    from pathlib import Path


def counting(calls: list[int]) -> dict[str, Any]:
    calls.append(1)
    return {"value": len(calls)}


def test_a_piece_is_measured_once(tmp_path: Path) -> None:
    calls: list[int] = []
    found = [Store(tmp_path / "results").get("a b/c", {"seed": 1}, lambda: counting(calls)) for _ in range(3)]
    assert found == [{"value": 1}] * 3
    (file,) = (tmp_path / "results").iterdir()
    assert file.name.startswith("a-b-c-")


def test_another_key_is_another_piece(tmp_path: Path) -> None:
    calls: list[int] = []
    store = Store(tmp_path)
    assert [store.get("a", {"seed": seed}, lambda: counting(calls))["value"] for seed in (1, 2, 1)] == [1, 2, 1]


def test_a_piece_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fails() -> dict[str, Any]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Store(tmp_path).get("a", {}, fails)
    assert not [*tmp_path.iterdir()]
    assert Store(tmp_path).get("a", {}, lambda: {"now": 1}) == {"now": 1}


def test_damage_is_named(tmp_path: Path) -> None:
    Store(tmp_path).get("a", {}, lambda: {"now": 1})
    (file,) = tmp_path.iterdir()
    file.write_text("{}")
    with pytest.raises(
        CheckpointError, match=r"a-.*json: a result is not as kept writes it \(key: is missing\); remove it"
    ):
        Store(tmp_path).get("a", {}, lambda: {"now": 1})
    file.write_text('{"found": ')
    with pytest.raises(CheckpointError, match=r"a-.*json: cannot be read as JSON .*; remove it"):
        Store(tmp_path).get("a", {}, lambda: {"now": 1})
    file.write_text('{"key": {"seed": 1}, "found": {"now": 1}}')
    with pytest.raises(CheckpointError, match=r"a-.*json: a result .* \(its key is another one\); remove it"):
        Store(tmp_path).get("a", {}, lambda: {"now": 1})
    file.write_text('{"key": {}, "found": {}}')
    with pytest.raises(CheckpointError, match=r"a-.*json: a result .* \(no 'now'\); remove it"):
        Store(tmp_path).get("a", {}, lambda: {"now": 1}, lambda found: found["now"])


def test_an_edited_result_is_named(tmp_path: Path) -> None:
    written = Store(tmp_path).get("a", {}, lambda: {"passages": {3: [0.1, float("nan")]}})
    (file,) = tmp_path.iterdir()
    read = Store(tmp_path).get("a", {}, dict)
    assert str(read) == str(written).replace("3:", "'3':")
    file.write_text(file.read_text().replace("0.1", "0.2"))
    with pytest.raises(
        CheckpointError, match=r"a-.*json: a result .* \(it was changed after it was written\); remove it"
    ):
        Store(tmp_path).get("a", {}, dict)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        Store(tmp_path / "file").get("a", {}, lambda: {"now": 1})
