"""Atheris on one target: python fuzz/run.py config -max_total_time=60. Each input has a limit on time and memory."""

from __future__ import annotations

import os
import sys

import atheris

LIMITS = ("-timeout=20", "-rss_limit_mb=4096", "-max_len=4096", "-artifact_prefix=fuzz/crash-")
"""Seconds and megabytes that no input of 4 KB may need."""


def main() -> None:
    """Fuzz until the time is over or something but KeptError comes out; libFuzzer's own flags are taken."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with atheris.instrument_imports(include=["kept"], enable_loader_override=False):
        import targets  # noqa: PLC0415 - what is imported here is instrumented

    script, name, *flags = sys.argv
    atheris.Setup([script, *LIMITS, *flags], lambda data: targets.run(name, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
