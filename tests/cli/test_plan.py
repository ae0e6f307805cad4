"""`kept plan` of a conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.command_line import data, succeeds
from support.golden import check_golden
from support.models import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path


def test_plan_in_words(orion: Path) -> None:
    lines = [line.rstrip() for line in succeeds("plan", orion).stdout.splitlines()]
    check_golden("plan-orion.txt", "\n".join(lines) + "\n")


def test_plan_as_data(orion: Path) -> None:
    check_golden("plan-orion.json", succeeds("plan", orion, "--json").stdout)


@pytest.mark.parametrize(
    ("options", "promise", "last"),
    [
        (["--norm", "opm"], "lossy", "layernorm-to-rmsnorm"),
        (["--norm", "calibrated"], "lossy", "layernorm-to-rmsnorm"),
        (["--norm", "carried"], "lossy", "carry-norm-bias"),
        (["--final-bias", "drop"], "approximate", "fill-biases"),
        (["--dtype", "bfloat16", "--context", "64"], "approximate", "fill-biases"),
        (["--to", "llama"], "exact", "fill-biases"),
    ],
)
def test_plan_s_options(orion: Path, options: list[str], promise: str, last: str) -> None:
    found = data("plan", orion, *options)
    assert found["promise"] == promise
    assert found["passes"][-1]["name"] == last


def test_plan_from_a_recipe(orion: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'source = "{orion}"\nout = "unused"\nnorm = "opm"', encoding="utf-8")
    assert data("plan", "--recipe", recipe)["promise"] == "lossy"
    assert data("plan", "--recipe", recipe, "--norm", "exact")["promise"] == "exact", "flags win"


def test_an_empty_plan_is_stated(tmp_path: Path) -> None:
    result = succeeds("plan", write_checkpoint(tmp_path, "llama"))
    first, sizes, cache = result.stdout.splitlines()
    assert first == "llama to llama: exact"
    assert sizes.startswith("parameters 105 K -> 105 K")
    assert cache == "KV cache 98.3 KB at 128 tokens", "layers x keys and values x heads x size x bytes x tokens"
