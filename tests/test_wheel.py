"""The built wheel, installed where the source tree is not: everything that the package needs is inside of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]


def run(*words: object, folder: Path) -> str:
    """Return the output of a command that runs without this project's paths."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "KEPT"))}
    command = [str(word) for word in words]
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that nothing an earlier build left is in it."""
    folder = tmp_path_factory.mktemp("build")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", folder, folder=folder)
    (built,) = (folder / "dist").glob("kept-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with the wheel; what it depends on is this one's, by a path file."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, folder=folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    return folder / "bin"


def test_every_file_of_the_package_is_inside(wheel: Path) -> None:
    source = ROOT / "src"
    files = [file for file in (source / "kept").rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    with zipfile.ZipFile(wheel) as opened:
        packed = {name for name in opened.namelist() if name.startswith("kept/")}
    assert packed == {str(file.relative_to(source)) for file in files}


def test_it_runs_without_the_source_tree(installed: Path, tmp_path: Path) -> None:
    where = run(installed / "python", "-c", "import kept; print(kept.__file__)", folder=tmp_path)
    assert where.startswith(str(installed.parent)), "the negative control: not this tree's"
    helps = [
        run(*words, "--help", folder=tmp_path)
        for words in ((installed / "kept",), (installed / "python", "-m", "kept"))
    ]
    assert helps[0].partition("\n")[2] == helps[1].partition("\n")[2]
    assert "kept convert path/to/orion out/llama" in helps[0]


def test_it_converts(installed: Path, tmp_path: Path) -> None:
    """The demo's steps: the package has the model, the sample text, and the templates of card and page."""
    (package,) = installed.parent.glob("lib/python*/site-packages/kept")
    words = ("convert", package / "demo/orion-2m", "plain", "--norm", "opm", "--verify-tokens", "16", "--json")
    done = json.loads(run(installed / "kept", *words, folder=tmp_path))
    assert "sample" in done["verification"]["text"], "or tokens were random, which need no file"
    assert (tmp_path / "plain/README.md").is_file()
    run(installed / "kept", "report", "plain", "--out", "page.html", folder=tmp_path)
    assert (tmp_path / "page.html").is_file()
