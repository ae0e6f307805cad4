"""Keeping what a benchmark found: in benchmarks/results/, with the day, the command, the commit and the load."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent


def about() -> dict[str, Any]:
    """The command that runs, the commit it is of, and how busy the machine is."""
    said = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=HERE)  # noqa: PLW1510
    return {"command": said, "commit": commit.stdout.strip(), "load": [round(each, 1) for each in os.getloadavg()]}


def keep(name: str, found: Mapping[str, Any]) -> Path:
    """Write what was found, and say where."""
    file = HERE / "results" / f"{time.strftime('%Y-%m-%d')}-{name}.json"
    file.write_text(json.dumps({**about(), **found}, indent=1) + "\n", encoding="utf-8")
    print(f"kept in {file.relative_to(HERE.parent)}")
    return file
