"""Help texts, the list of commands, and the installed command."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import click
import click.shell_completion
import pytest
from click.testing import CliRunner

from kept.cli.root import main
from support.command_line import COMMANDS
from support.golden import check_golden


@pytest.mark.parametrize("name", COMMANDS)
def test_help(name: str) -> None:
    result = CliRunner().invoke(main, [*name.split(), "--help"], prog_name="kept", terminal_width=100)
    assert result.exit_code == 0
    check_golden(f"help-{name.replace(' ', '-') or 'kept'}.txt", result.stdout)


def test_every_command_is_tested_here() -> None:
    assert isinstance(main, click.Group)
    known = "cache-teacher check completion convert demo eval expand export generate heal inspect plan push report run"
    of_tokenizers = ["tokenizer", "tokenizer merge", "tokenizer train"]
    assert sorted(["", *known.split(), "schema", "shrink-expanded", "verify", *of_tokenizers]) == COMMANDS


def test_the_package_runs() -> None:
    done = subprocess.run([sys.executable, "-m", "kept", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Usage: ")
    assert "kept convert path/to/orion out/llama" in done.stdout
    assert done.stderr == ""


def test_the_installed_command_says_its_version() -> None:
    command = os.path.join(os.path.dirname(sys.executable), "kept")  # noqa: PTH118, PTH120 - beside the interpreter
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"kept, version \d+\.\d+\.\d+\n", done.stdout)
