"""`kept generate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kept
from support.command_line import data, succeeds

if TYPE_CHECKING:
    from pathlib import Path


def test_generate_in_words(out: Path) -> None:
    found = kept.generate(out, ["The keeper", "seven"], max_new_tokens=8)
    result = succeeds("generate", out, "--prompt", "The keeper", "--prompt", "seven", "--max-new-tokens", 8)
    assert result.stdout == "\n\n".join(one.prompt + one.text for one in found) + "\n"
    assert result.stderr == ""


def test_generate_as_data(out: Path) -> None:
    options = ["--max-new-tokens", 8, "--temperature", 0.8, "--top-p", 0.9, "--seed", 3]
    (found,) = data("generate", out, *options)
    assert found["prompt"] == "Once upon a time"
    (same,) = data("generate", out, *options)
    assert found == same


def test_json_is_not_ascii_only(out: Path) -> None:
    (found,) = data("generate", out, "--prompt", "한국어", "--max-new-tokens", 1)
    assert found["prompt"] == "한국어"
