"""How a target runs under atheris: guided by the coverage of kept, with a limit on the time and memory of each input."""

from __future__ import annotations

import os
import sys

import atheris

LIMITS = ("-timeout=20", "-rss_limit_mb=4096", "-max_len=4096", "-artifact_prefix=fuzz/crash-")
"""Seconds and megabytes that no input of 4 KB may need."""


def fuzz(name: str) -> None:
    """Fuzz a target until the time is over or something but KeptError comes out; libFuzzer's own flags are taken."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with atheris.instrument_imports(include=["kept"], enable_loader_override=False):
        import targets  # noqa: PLC0415 - what is imported here is instrumented

    atheris.Setup([sys.argv[0], *LIMITS, *sys.argv[1:]], lambda data: targets.run(name, data))
    atheris.Fuzz()
