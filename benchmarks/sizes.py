"""Memory of a conversion and time of `kept inspect`, by the size of the model.

    python benchmarks/sizes.py --gb 2 4 8 [--work DIRECTORY]

For each size an Orion-shaped checkpoint (synthetic.py) is copied with `cp -r`, looked at (`kept inspect`, `kept plan`,
medians of five), converted without and with its short verification, and verified again with `--streamed`. Each is a
process of its own; memory is the peak of its RssAnon, sampled every 10 ms; seconds of `cp` and of conversions include a
`sync`. Prints and writes machine, command and commit to benchmarks/results/. Needs room for twice the largest size.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from keeping import keep
from speed import Measured, measure, set_cache
from synthetic import layers_for, make

if TYPE_CHECKING:
    from collections.abc import Sequence

KEPT = (sys.executable, "-m", "kept")

LOOKS = 5
"""Runs of what takes a second."""


def median(command: Sequence[str]) -> Measured:
    """The run of median time among `LOOKS`."""
    return sorted((measure(command) for _ in range(LOOKS)), key=lambda run: run.seconds)[LOOKS // 2]


def size(work: Path, gigabytes: float) -> dict[str, object]:
    """Everything about one size."""
    source, out = work / "orion", work / "out"
    layers = layers_for(gigabytes * 1e9, "orion")
    nbytes = make(source, layers)
    found = {name: median([*KEPT, name, str(source)]) for name in ("inspect", "plan")}
    set_cache(source, cold=False)
    found["cp -r"] = measure(["cp", "-r", str(source), str(out)])
    shutil.rmtree(out)
    set_cache(source, cold=False)
    found["convert, written only"] = measure([*KEPT, "convert", str(source), str(out), "--verify-tokens", "0"])
    shutil.rmtree(out)
    set_cache(source, cold=False)
    found["convert"] = measure([*KEPT, "convert", str(source), str(out)])
    found["verify --streamed"] = measure([*KEPT, "verify", str(source), str(out), "--streamed", "--tokens", "64"])
    shutil.rmtree(source)
    shutil.rmtree(out)
    shown = {name: vars(run) for name, run in found.items()}
    print(json.dumps({"gigabytes": gigabytes, **shown}), file=sys.stderr)
    return {"bytes": nbytes, "layers": layers, **shown}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, nargs="+", default=[2.0, 4.0, 8.0])
    parser.add_argument("--work", type=Path, help="a directory on the disk to measure [default: the system's for such]")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as work:
        sizes = {f"{gigabytes:g} GB": size(Path(work), gigabytes) for gigabytes in given.gb}
    results = {
        "kept --help": vars(median([*KEPT, "--help"])),
        "sizes": sizes,
    }
    keep(f"sizes-{'-'.join(f'{gigabytes:g}' for gigabytes in given.gb)}gb", results)


if __name__ == "__main__":
    main()
