"""Time and memory of a block expansion, against `cp -r` of source and result, and against LLaMA Pro's script.

    python benchmarks/expand.py --gb 4 --runs 3 [--work DIRECTORY]

Makes a Llama of Orion-14B's widths (synthetic.py) and adds a layer to every four, as LLaMA Pro does. Measured in turns:
`cp -r` of the source, `kept expand --verify-tokens 0`, `cp -r` of what that wrote, and LLaMA Pro's way, which loads the
model with transformers, fills a larger state dict, and saves it with torch (config, index and tokenizer are then still
to be written by hand). Each ends with a `sync`; the source is in the page cache as far as it fits. Memory is the peak
of RssAnon. Prints medians and writes them with load, command and commit to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from keeping import keep
from speed import Measured, measure, set_cache
from synthetic import layers_for, make

STATE_DICT = """
import sys, torch
from transformers import AutoModelForCausalLM
source, out, group = *sys.argv[1:3], int(sys.argv[3])
state = AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16).state_dict()
larger = {name: value for name, value in state.items() if ".layers." not in name}
for name, value in state.items():
    if ".layers." in name:
        number, rest = name.removeprefix("model.layers.").split(".", 1)
        new = int(number) + int(number) // group
        larger[f"model.layers.{new}.{rest}"] = value
        if int(number) % group == group - 1:
            silent = rest.startswith(("self_attn.o_proj", "mlp.down_proj"))
            larger[f"model.layers.{new + 1}.{rest}"] = torch.zeros_like(value) if silent else value.clone()
torch.save(larger, out)
"""


def contenders(source: Path, work: Path, layers: int) -> dict[str, tuple[Path, Path, list[str]]]:
    """Return the compared commands, each with its input and output."""
    whole, copy, other = work / "expanded", work / "copy", work / "state.pth"
    kept = [sys.executable, "-m", "kept", "expand", str(source), str(whole), "--groups", str(layers // 4)]
    verified = [str(work / "verified") if part == str(whole) else part for part in kept]
    return {
        "cp -r source": (source, copy, ["cp", "-r", str(source), str(copy)]),
        "kept expand": (source, whole, [*kept, "--verify-tokens", "0"]),
        "kept expand, verified": (source, work / "verified", verified),
        "cp -r result": (whole, copy, ["cp", "-r", str(whole), str(copy)]),
        "state dict": (source, other, [sys.executable, "-c", STATE_DICT, str(source), str(other), "4"]),
    }


def run(source: Path, work: Path, layers: int, runs: int) -> dict[str, list[Measured]]:
    """All runs, in turns; what a turn wrote is removed, and a result when it was copied."""
    chosen = contenders(source, work, layers)
    found: dict[str, list[Measured]] = {name: [] for name in chosen}
    for _ in range(runs):
        for name, (reads, writes, command) in chosen.items():
            set_cache(reads, cold=False)
            found[name].append(measure(command))
            print(f"{name}: {found[name][-1]}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
            if name != "kept expand":
                shutil.rmtree(writes) if writes.is_dir() else writes.unlink()
                time.sleep(2)  # the disk discards what was removed
        shutil.rmtree(work / "expanded")
    return found


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=4.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--work", type=Path, help="a directory on the disk to measure [default: the system's for such]")
    given = parser.parse_args()
    layers = max(4, layers_for(given.gb * 1e9, "llama") // 4 * 4)
    with tempfile.TemporaryDirectory(dir=given.work) as work:
        nbytes = make(Path(work) / "llama", layers, "llama")
        found = run(Path(work) / "llama", Path(work), layers, given.runs)
    medians = {name: statistics.median(one.seconds for one in runs) for name, runs in found.items()}
    results = {
        "source": {"bytes": nbytes, "layers": layers, "new layers": layers // 4},
        "median_seconds": medians,
        "ratios": {
            f"kept expand / {name}": round(medians["kept expand"] / one, 2)
            for name, one in medians.items()
            if name != "kept expand"
        },
        "peak_anonymous_mb": {name: max(one.anonymous_mb for one in runs) for name, runs in found.items()},
        "runs": {name: [vars(one) for one in runs] for name, runs in found.items()},
    }
    keep(f"expand-{given.gb:g}gb", results)


if __name__ == "__main__":
    main()
