"""`kept plan` of a healing run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.command_line import complains, data, run, succeeds
from support.golden import check_golden
from support.heal_recipe import healing_recipe

if TYPE_CHECKING:
    from pathlib import Path


def test_plan_of_healing_in_words(tmp_path: Path) -> None:
    shown = succeeds("plan", healing_recipe(tmp_path, tokens="2B"), "--cluster", "8xh100", "--price", "2.5")
    check_golden("plan-heal.txt", "".join(f"{line.rstrip()}\n" for line in shown.stdout.splitlines()))


def test_plan_of_healing_as_data(tmp_path: Path) -> None:
    cluster = tmp_path / "small.toml"
    cluster.write_text('device = "h100"\nmemory_gb = 0.0001\n', encoding="utf-8")
    found = data("plan", healing_recipe(tmp_path), "--cluster", cluster)
    assert found["bytes_per_rank"] == pytest.approx(sum(found["memory"].values()))
    assert not found["fits"]
    assert "--gradient-checkpointing" in [one["change"] for one in found["remedies"]]


def test_plan_of_healing_complains(tmp_path: Path, orion: Path) -> None:
    recipe = healing_recipe(tmp_path, sequence_length=4096)
    assert "sequence_length: is 4096" in complains("plan", recipe, "--cluster", "h100")
    assert "not a known device" in complains("plan", recipe, "--cluster", "h10")
    for arguments in (["plan", recipe, "--norm", "opm"], ["plan", orion, "--cluster", "h100"]):
        assert "recipe for kept heal" in run(*arguments).stderr
