"""Keeping what a benchmark found: printed, and written to benchmarks/results/ with its command, commit and load."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent

BEFORE = os.getloadavg()[0]
"""How busy the machine was when this program began."""


def own() -> dict[str, str]:
    """The command that runs, with the names of files but not where this machine has them, and its commit."""
    said = [re.sub(r"(^|=)/\S*/", r"\1path/to/", word) for word in sys.argv[1:]]
    command = shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *said])
    asked = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=True, cwd=HERE).stdout
    return {"command": command, "commit": commit.strip()}


def keep(name: str, found: Mapping[str, Any]) -> None:
    """Print what was found, all but its `runs` and `trials`, and write all of it."""
    load = {"before": BEFORE, "after": os.getloadavg()[0]}
    results = {**own(), "cores": os.cpu_count(), "load": load, **found}
    print(json.dumps({key: value for key, value in results.items() if key not in {"runs", "trials"}}, indent=2))
    file = HERE / "results" / f"{time.strftime('%Y-%m-%d')}-{name}.json"
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
