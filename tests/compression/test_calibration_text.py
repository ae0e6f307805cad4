"""Which texts a truncation is calibrated on, and that the output is not verified on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kept.commands.calibration_text import calibration_paths
from kept.errors import InputError
from kept.recipe import Recipe

if TYPE_CHECKING:
    from pathlib import Path


def asked(**settings: object) -> Recipe:
    return Recipe("source", "out", to="deepseek_v3", kv=0.5, **settings)  # type: ignore[arg-type]


def test_files_have_names_and_self_has_none(tmp_path: Path) -> None:
    book, other = tmp_path / "book.txt", tmp_path / "other.txt"
    found = calibration_paths(asked(data=(str(book), f"code={other}"), text=str(tmp_path / "third.txt")))
    assert found == {"book": book, "code": other}
    assert calibration_paths(asked(data=("self",))) == {}


def test_calibration_text_is_no_text_to_verify_on(tmp_path: Path) -> None:
    book = tmp_path / "book.txt"
    book.write_text("once")
    (tmp_path / "link.txt").symlink_to(book)
    with pytest.raises(InputError, match="is calibration text \\(data\\) too; verify on another text"):
        calibration_paths(asked(data=(str(book),), text=str(tmp_path / "link.txt")))
    with pytest.raises(InputError, match="kv: needs text to measure on; give --data FILE, or --data self"):
        calibration_paths(asked(text=str(book)))
    with pytest.raises(InputError, match="self stands alone"):
        calibration_paths(asked(data=("self", str(book))))
