"""How near a conversion is to the disk: against `cp -r` of the same directory, and what memory it takes.

    python benchmarks/speed.py --gb 8 --runs 5 [--cold] [--mergekit /path/to/mergekit-yaml] [--work DIRECTORY]

Makes an Orion-shaped and a Llama-shaped checkpoint (synthetic.py) and measures, in turns so that all meet the same
weather: `cp -r`, `kept convert --to llama --verify-tokens 0` (the exact plan: every matrix is read, a third is
changed, one layer is added), the same of the Llama (nothing changes), and with `--mergekit` its passthrough merge;
without it safetensors' own load and save of each file stands in. Each ends with a `sync`. The source is in the
page cache as far as it fits (`--cold`: dropped from it before each run). Memory is the peak of RssAnon, sampled
every 10 ms. Prints medians and writes them with machine, load, command and commit to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from keeping import keep
from synthetic import layers_for, make

if TYPE_CHECKING:
    from collections.abc import Sequence

REWRITE = """
import sys, pathlib
from safetensors.torch import load_file, save_file
source, out = map(pathlib.Path, sys.argv[1:])
out.mkdir()
for file in sorted(source.glob("*.safetensors")):
    save_file(load_file(file), out / file.name, metadata={"format": "pt"})
"""
"""Substitute for mergekit: every tensor is loaded and saved."""


@dataclass(frozen=True)
class Measured:
    """One run: seconds with the sync, processor seconds, peak anonymous memory in MB."""

    seconds: float
    cpu: float
    anonymous_mb: float


def measure(command: Sequence[str]) -> Measured:
    """Run a command and sync."""
    before, start = os.times(), time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
        peak = Peak(run.pid)
        said = run.stderr.read() if run.stderr else b""
    os.sync()
    seconds, after = time.monotonic() - start, os.times()
    if run.returncode:
        sys.exit(f"{' '.join(command)} failed: {said.decode()}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Measured(round(seconds, 2), round(cpu, 2), round(peak.stop() / 1e6, 1))


class Peak:
    """The largest RssAnon of a process and its children, in bytes."""

    def __init__(self, pid: int) -> None:
        self.pid, self.largest, self.running = pid, 0, True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self) -> None:
        """Sample until told to stop."""
        while self.running:
            self.largest = max(self.largest, anonymous(self.pid))
            time.sleep(0.01)

    def stop(self) -> int:
        """The peak."""
        self.running = False
        self.thread.join()
        return self.largest


def anonymous(pid: int) -> int:
    """RssAnon in bytes; 0 once the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), 0)


def set_cache(source: Path, *, cold: bool) -> None:
    """Drop a directory from the page cache, or read it in."""
    os.sync()
    for file in source.iterdir():
        with file.open("rb", buffering=0) as opened:
            if cold:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while opened.read(1 << 24):
                    pass


def contenders(orion: Path, llama: Path, out: Path, mergekit: str | None) -> dict[str, tuple[Path, list[str]]]:
    """Return the compared commands, each with the directory that it reads."""
    convert = [sys.executable, "-m", "kept", "convert", "--to", "llama"]
    written = [*convert, "--verify-tokens", "0"]
    if mergekit is None:
        other = {"safetensors load and save": (llama, [sys.executable, "-c", REWRITE, str(llama), str(out)])}
    else:
        recipe = out.parent / "passthrough.yml"
        recipe.write_text(f"merge_method: passthrough\ndtype: bfloat16\nmodels:\n  - model: {llama}\n")
        other = {"mergekit passthrough": (llama, [mergekit, str(recipe), str(out)])}
    return {
        "cp -r orion": (orion, ["cp", "-r", str(orion), str(out)]),
        "orion to llama": (orion, [*written, str(orion), str(out)]),
        "orion to llama, verified": (orion, [*convert, str(orion), str(out)]),
        "cp -r llama": (llama, ["cp", "-r", str(llama), str(out)]),
        "llama to llama": (llama, [*written, str(llama), str(out)]),
        "llama to llama, verified": (llama, [*convert, str(llama), str(out)]),
        **other,
    }


def run(given: argparse.Namespace, work: Path) -> dict[str, list[Measured]]:
    """All runs, interleaved."""
    paths = {family: work / family for family in ("orion", "llama")}
    for family, path in paths.items():
        make(path, layers_for(given.gb * 1e9, family), family)
    out = work / "out"
    chosen = contenders(paths["orion"], paths["llama"], out, given.mergekit)
    found: dict[str, list[Measured]] = {name: [] for name in chosen if name not in given.without}
    for _ in range(given.runs):
        for name, measured in found.items():
            source, command = chosen[name]
            set_cache(source, cold=given.cold)
            measured.append(measure(command))
            print(f"{name}: {measured[-1]}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
            shutil.rmtree(out)
            time.sleep(given.rest)  # the disk discards what was removed
    return found


def ratios(medians: dict[str, float]) -> dict[str, float]:
    """Return the ratio of two medians within this run."""
    other = next((name for name in medians if name.startswith(("mergekit", "safetensors"))), "")
    families = ("orion", "llama")
    pairs = [(f"{one} to llama{how}", f"cp -r {one}") for one in families for how in ("", ", verified")]
    pairs.append((other, "llama to llama"))
    return {f"{a} / {b}": round(medians[a] / medians[b], 2) for a, b in pairs if a in medians and b in medians}


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--mergekit", help="path of mergekit-yaml")
    parser.add_argument("--work", type=Path, help="a directory on the disk to measure [default: the system's for such]")
    parser.add_argument("--rest", type=float, default=2.0, help="seconds between runs")
    parser.add_argument("--without", nargs="*", default=[], help="contenders to leave out")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.work) as work:
        found = run(given, Path(work))
    medians = {name: statistics.median(one.seconds for one in runs) for name, runs in found.items()}
    results = {
        "page cache": "source dropped before each run" if given.cold else "source read before each run",
        "median_seconds": medians,
        "ratios": ratios(medians),
        "peak_anonymous_mb": {name: max(one.anonymous_mb for one in runs) for name, runs in found.items()},
        "runs": {name: [vars(one) for one in runs] for name, runs in found.items()},
    }
    keep(f"speed-{given.gb:g}gb{'-cold' if given.cold else ''}", results)


if __name__ == "__main__":
    main()
