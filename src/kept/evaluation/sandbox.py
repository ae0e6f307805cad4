"""Code that a model wrote, run apart: a process of its own with limits, and what the system takes from it.

This is a fence for accidents, not a prison for malice: run untrusted models' code on a machine that may be lost.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from kept.evaluation import jail

SECONDS = 5
"""Of processor time; the wall clock may show twice as much."""

MEGABYTES = 1024


def passes(program: str, seconds: int = SECONDS, megabytes: int = MEGABYTES) -> bool:
    """Whether a Python program runs to its end, within limits, without an error."""
    with TemporaryDirectory(prefix="kept-") as folder:
        file = Path(folder) / "program.py"
        file.write_text(program, encoding="utf-8", errors="replace")
        command = [sys.executable, "-I", jail.__file__, str(file), str(seconds), str(megabytes)]
        with subprocess.Popen(  # noqa: S603 - this is what was asked for with --execute
            command, cwd=folder, env={}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:  # fmt: skip
            try:
                said, _ = process.communicate(timeout=2 * seconds)
            except subprocess.TimeoutExpired:
                said = b""
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    return said == b"passed"


def fences() -> dict[str, bool]:
    """What this system keeps code from: the network, and changes to files; tried, not assumed."""
    with socket.create_server(("127.0.0.1", 0)) as server, TemporaryDirectory(prefix="kept-") as folder:
        port, file = server.getsockname()[1], Path(folder) / "file"
        file.touch()
        connects = passes(f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)")
        passes(f"import os; os.remove({str(file)!r})")
        return {"network": not connects, "files": file.exists()}
