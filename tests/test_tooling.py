"""Makefile, pre-commit and CI agree with one another and with the code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from support.forks import PRELOADED
from targets import TARGETS_OF_FUZZING

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8").replace("\\\n", " ")


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile."""
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found is not None, target
    return [line.strip() for line in found[1].splitlines()]


def test_make_fuzz_runs_every_target() -> None:
    (listed,) = re.findall(r"^FUZZ_TARGETS \?= (.*)$", MAKEFILE, re.MULTILINE)
    assert sorted(listed.split()) == sorted(TARGETS_OF_FUZZING)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_help_lists_every_phony_target() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    command = ["make", "--no-print-directory", "help"]
    outside = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    shown = subprocess.run(command, cwd=ROOT, env=outside, capture_output=True, text=True, check=True).stdout
    assert [line.split()[0] for line in shown.splitlines()] == phony.split()


def test_pre_commit_runs_what_make_check_runs() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    assert hooks == [command.replace("$(BIN)", ".venv/bin") for command in recipe("check")]


def test_ci_runs_the_script_of_the_repository() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["test"]["steps"]
    assert steps[-1]["run"] == ".ci/run"
    assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in steps[:-1]), "actions are pinned by commit"
    assert "exec make test" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


@pytest.mark.parametrize("module", PRELOADED)
def test_what_forks_preload_exists(module: str) -> None:
    """Python says nothing about a name that it cannot import, and each fork would import it itself."""
    assert find_spec(module) is not None
