"""Colour on a terminal, and none in a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def on_a_terminal(*arguments: object, **environment: str) -> str:
    """Return the output of a command on a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "kept", *map(str, arguments)]
    kept_environment = {k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "FORCE_COLOR"}}
    variables = {**kept_environment, "TERM": "xterm", "COLUMNS": "100", **environment}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=variables) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                block = os.read(ours, 4096)
            except OSError:
                break
            if not block:
                break
            written += block
        process.wait()
    os.close(ours)
    return written.decode()


def test_an_error_is_red_on_a_terminal_and_not_where_colour_is_unwanted() -> None:
    assert "\x1b[31mkept: /nowhere" in on_a_terminal("inspect", "/nowhere")
    assert "\x1b" not in on_a_terminal("inspect", "/nowhere", NO_COLOR="1")


def test_a_table_has_no_colour_where_it_is_unwanted(orion: Path) -> None:
    assert not re.search("\x1b\\[[0-9;]*3[0-9]", on_a_terminal("plan", orion, NO_COLOR="1"))


def test_a_pipe_gets_no_escapes(orion: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "kept", "plan", str(orion)], capture_output=True, check=True)
    assert b"\x1b" not in done.stdout + done.stderr
