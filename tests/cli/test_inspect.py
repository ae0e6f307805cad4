"""`kept inspect`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kept
from kept.ir.serialise import from_json
from support.command_line import data, succeeds
from support.models import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def test_inspect_in_words(orion: Path) -> None:
    text = succeeds("inspect", orion).stdout
    assert text.startswith(f"{orion}: orion, ")
    assert "LayerNorm with bias, attention 4 / 2 key-value heads x 16" in text
    assert "to llama: exact: centre, layernorm-to-rmsnorm, fold-norm-bias, affine-tail, fill-biases" in text


def test_inspect_as_data(orion: Path) -> None:
    found = data("inspect", orion)
    assert found["family"] == "orion"
    assert from_json(found["spec"]) == kept.open_model(orion).program.spec
    assert found["targets"][0]["promise"] == "exact"


def test_inspect_says_why_not(tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path, "gpt2")
    short, whole = succeeds("inspect", source), succeeds("inspect", source, "--verbose")
    assert "to llama: refused: positions are learned, and the target has no table of them; queries and" in short.stdout
    refused = [line for line in short.stdout.splitlines() if ": refused: " in line]
    assert max(map(len, refused)) < 220
    assert not [line for line in refused if "mixer." in line or "_norm" in line]
    assert "kept plan PATH --to TARGET" in short.stderr
    assert "to llama: refused: positions: positions are learned" in whole.stdout
    assert "kept heal FRESH --teacher MODEL" in whole.stdout
    assert whole.stderr == ""


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    odd = write_checkpoint(tmp_path / "[red]a[/red]:smile:", "llama")
    assert succeeds("inspect", odd).stdout.startswith(f"{odd}: llama")
    result = succeeds("convert", odd, tmp_path / "[bold]out:warning:", "--verify-tokens", 16)
    assert f"{tmp_path}/[bold]out:warning:: written" in result.stdout
