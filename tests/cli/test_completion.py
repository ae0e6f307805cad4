"""Shell completion."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import click.shell_completion
import pytest

from kept.cli.root import main
from kept.families import TARGETS
from support.command_line import succeeds


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("kept plan --norm op", {"opm", "opm-centred"}),
        ("kept convert --final-bias ", {"block", "drop"}),
        ("kept convert --dtype int", set()),
        ("kept convert --dtype b", {"bfloat16"}),
        ("kept plan --rope ", {"llama3", "proportional"}),
        ("kept comp", {"completion"}),
    ],
)
def test_the_shell_completes(words: str, found: set[str]) -> None:
    *before, last = words.split(" ")
    completer = click.shell_completion.ShellComplete(main, {}, "kept", "_KEPT_COMPLETE")
    assert {item.value for item in completer.get_completions(before[1:], last)} == found


def test_targets_and_folders_complete() -> None:
    completer = click.shell_completion.ShellComplete(main, {}, "kept", "_KEPT_COMPLETE")
    assert {item.value for item in completer.get_completions(["plan", "--to"], "")} == {*TARGETS, "same"}
    assert [item.type for item in completer.get_completions(["convert"], "any")] == ["dir"]
    assert [item.type for item in completer.get_completions(["convert", "--text"], "any")] == ["file"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script(shell: str) -> None:
    script = succeeds("completion", shell).stdout
    assert f"_KEPT_COMPLETE={shell}_complete" in script
    assert "%(" not in script


def test_bash_itself_completes() -> None:
    """The script is sourced by a real bash; completing asks the installed command."""
    asks = 'eval "$(python -m kept completion bash)"; COMP_WORDS=(kept plan --norm cal); COMP_CWORD=3; '
    folder = os.path.dirname(sys.executable)  # noqa: PTH120 - beside the interpreter
    given = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["bash", "-c", asks + '_kept_completion kept; echo "${COMPREPLY[@]}"']
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=given)
    assert done.stdout == "calibrated\n", done.stderr


def test_completing_does_not_wait_for_torch() -> None:
    given = {**os.environ, "_KEPT_COMPLETE": "bash_complete", "COMP_WORDS": "kept plan --norm ", "COMP_CWORD": "3"}
    code = "import sys; from kept.cli.root import main; main(prog_name='kept', standalone_mode=False)"
    wraps = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); {code}"
    done = subprocess.run([sys.executable, "-c", wraps], capture_output=True, text=True, check=False, env=given)
    assert (done.stdout.split(), done.stderr) == (
        ["plain,exact", "plain,opm", "plain,opm-centred", "plain,calibrated", "plain,carried"],
        "False\n",
    )
