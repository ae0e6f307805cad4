"""Imports of each command: inspection needs no torch, and help imports no command."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.heal_recipe import healing_recipe

if TYPE_CHECKING:
    from pathlib import Path

CODE = """
import sys
from kept.cli.root import main
main(sys.argv[1:], standalone_mode=False)
sys.stderr.write(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""

REFUSED = "from click.testing import CliRunner; print(CliRunner().invoke(main, sys.argv[1:]).output)"


def imported(*arguments: str) -> set[str]:
    """The packages that a command imports."""
    run = subprocess.run([sys.executable, "-c", CODE, *arguments], check=True, capture_output=True, text=True)
    assert run.stdout, "it did its work"
    return set(run.stderr.split())


@pytest.mark.parametrize(
    "options", [("inspect",), ("plan",), ("plan", "--norm", "calibrated"), ("plan", "--norm", "carried")]
)
def test_a_checkpoint_of_any_size_is_looked_at_without_torch(orion: Path, options: tuple[str, ...]) -> None:
    assert not {"torch", "transformers", "matplotlib", "tokenizers"} & imported(*options, str(orion))


def test_healing_is_planned_without_torch(tmp_path: Path) -> None:
    assert "torch" not in imported("plan", str(healing_recipe(tmp_path)), "--cluster", "h100")


def test_an_output_that_exists_is_refused_without_torch(orion: Path) -> None:
    code = CODE.replace("main(sys.argv[1:], standalone_mode=False)", REFUSED)
    command = [sys.executable, "-c", code, "heal", str(orion), "--teacher", str(orion), "--out", str(orion)]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "exists already" in run.stdout
    assert "torch" not in run.stderr.split()


def test_help_imports_none_of_what_it_is_about() -> None:
    found = imported("--help")
    assert "click" in found
    assert not {"torch", "transformers", "numpy", "jinja2", "yaml", "rich", "matplotlib"} & found


def test_a_conversion_does_import_torch(orion: Path, tmp_path: Path) -> None:
    """Negative control: the test sees what is imported."""
    assert "torch" in imported("convert", str(orion), str(tmp_path / "out"), "--verify-tokens", "0", "--json")
