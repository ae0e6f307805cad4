"""`kept verify`."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from support.command_line import data, run, succeeds
from support.stored import write_readable

if TYPE_CHECKING:
    from pathlib import Path


def test_verify_in_words(orion: Path, out: Path) -> None:
    result = succeeds("verify", orion, out, "--tokens", 64)
    first, *_, last = result.stdout.splitlines()
    own = r"; the source's own rounding is [\d.e-]+; in float64 the difference is \d\.?\d*e-1\d"
    assert re.fullmatch(rf"largest logit difference [\d.e-]+ \(64 tokens, float32\){own}", first)
    assert last == "promise exact: kept"


def test_verbose_adds_the_comparison_with_float64(orion: Path, out: Path) -> None:
    result = succeeds("verify", orion, out, "--tokens", 64, "--verbose")
    assert "against the source in float64, 64 tokens" in result.stdout
    assert "the rewritten model, in float64" in result.stdout
    assert "'Once upon a time' -> " in result.stdout
    assert "(both)" in result.stdout
    assert "the built-in sample" in result.stdout


def test_the_same_model_is_identical_without_arithmetic(orion: Path) -> None:
    result = succeeds("verify", orion, orion, "--tokens", 64)
    first = result.stdout.splitlines()[0]
    assert first == "identical to the bit: architecture and weights are those of the source (in float32)"


def test_verify_as_data(orion: Path, out: Path) -> None:
    found = data("verify", orion, out, "--tokens", 64, "--streamed")
    assert (found["kept"], found["promise"], found["continuations"]) == (True, "exact", [])
    assert found["same"]["tokens"] == 64


def test_verify_of_another_model_is_exit_code_one_with_data(orion: Path, out: Path, tmp_path: Path) -> None:
    other = write_readable(tmp_path / "other", "orion", seed=1)
    result = run("verify", other, out, "--tokens", 64, "--json", "--streamed")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["kept"] is False
    (line,) = result.stderr.splitlines()
    assert re.match(r"kept: .*out: the promise \(exact\) is broken: the mean logit error is", line)


def test_a_hint_goes_to_stderr(orion: Path, out: Path) -> None:
    result = succeeds("verify", orion, out, "--tokens", 16, "--streamed")
    assert result.stderr == "greedy continuations need both models in memory and were left out\n"
