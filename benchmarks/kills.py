"""Kill each command at random moments, repeat it, and compare its files with those of an uninterrupted run.

    python benchmarks/kills.py [--kills 200] [--seed 0] [--only heal ...] [--work DIRECTORY]

Each trial has its own directory, including temporary files and the token cache. A command is killed there three times
(one kill in four is SIGTERM, the others SIGKILL), then repeated until it ends. It must end with exit code 0, or with 2
if the kill came after the output was published. The directory must then hold the same files with the same bytes as
after an uninterrupted run, and no others. TensorBoard files are not compared, nor, in metrics, the speed and the lines
that record the start of a run.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.demo import model_path

if TYPE_CHECKING:
    from collections.abc import Sequence
    from multiprocessing.context import ForkServerContext
    from multiprocessing.process import BaseProcess

INPUTS = "../inputs"

SOURCE, GROWN, STUDENT, TEXT, LINES = (
    f"{INPUTS}/{name}" for name in ("orion", "grown", "student", "text.txt", "lines.jsonl")
)

SIZES = {
    "batch_size": 4,
    "sequence_length": 32,
    "tokens": "4K",
    "learning_rate": 1e-3,
    "save-every": 4,
    "eval-every": 8,
}

TRAINING = [word for key, value in SIZES.items() for word in (f"--{key}", str(value))]

RECIPE = f"""
out = "out"
[[steps]]
do = "expand"
source = "{SOURCE}"
groups = 2
verify_tokens = 8
[[steps]]
do = "heal"
loss = "ce"
train = "new"
data = ["{LINES}"]
batch = 4
length = 32
tokens = 2048
save_every = 3
[[steps]]
do = "convert"
verify_tokens = 8
[[steps]]
do = "verify"
tokens = 16
"""

COMMANDS: dict[str, Sequence[str]] = {
    "convert": ["convert", SOURCE, "out", "--max-shard-size", "1MB", "--verify-tokens", "16"],
    "expand": ["expand", SOURCE, "out", "--groups", "3", "--verify-tokens", "16"],
    "shrink-expanded": ["shrink-expanded", GROWN, "out", "--tokens", "32"],
    "heal": ["heal", STUDENT, "--teacher", SOURCE, "--data", LINES, "--out", "out", *TRAINING],
    "cache-teacher": [
        "cache-teacher",
        SOURCE,
        "--data",
        LINES,
        "--out",
        "out",
        "--batch-size",
        "1",
        "--sequence-length",
        "32",
    ],
    "eval": ["eval", SOURCE, "--text", f"prose={TEXT}", "--window", "64", "--stride", "8", "--out", "eval.json"],
    "run": ["run", f"{INPUTS}/recipe.toml"],
}

PRELOADED = (
    "torch",
    "torch._dynamo",
    "transformers",
    "datasets",
    "kept.cli.root",
    "kept.commands.run_recipe",
    "kept.commands.cache_teacher",
    "kept.commands.convert",
    "kept.distillation.train.trainer",
    "kept.distillation.train.run_checkpoints",
    "kept.evaluation.run",
    "kept.verification.verify",
    "tensorboard.compat.proto.event_pb2",
    "tensorboard.summary.writer.record_writer",
)

KILLS_A_TRIAL = 3

ENDS = {-signal.SIGKILL: "killed", -signal.SIGTERM: "terminated", 143: "terminated"}
"""Exit codes of a run that was killed; a run that ended before the kill has another."""

MOST_TIMES = 20
"""Most repetitions of a command until it ends by itself."""


def child(place: str, words: Sequence[str]) -> None:
    """Run a command in the directory `place`, with its temporary files and cache there; output goes to `place`.log."""
    import torch  # noqa: PLC0415 - only needed in a child

    from kept.cli.root import main  # noqa: PLC0415
    from kept.evaluation import journal  # noqa: PLC0415

    journal.SECONDS = 0.05  # an evaluation takes about a second here
    torch.set_num_threads(1)
    os.chdir(place)
    os.environ.update(XDG_CACHE_HOME=f"{place}/cache", TMPDIR=str(Path(place, "tmp")))
    tempfile.tempdir = None
    log = os.open(f"{place}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    main([*words])


@dataclass
class Bench:
    """The directory of the trials and the context that starts their processes."""

    work: Path
    forks: ForkServerContext

    def place(self, name: str) -> Path:
        """Return a new, empty directory for a trial."""
        place = self.work / name
        shutil.rmtree(place, ignore_errors=True)
        (place / "tmp").mkdir(parents=True)
        place.with_name(f"{name}.log").unlink(missing_ok=True)
        return place

    def start(self, place: Path, words: Sequence[str]) -> BaseProcess:
        """Start a command in a directory."""
        run = self.forks.Process(target=child, args=(str(place), [*words]))
        run.start()
        return run

    def whole(self, place: Path, words: Sequence[str]) -> float:
        """Run a command to its end and return its duration in seconds. Exits if it fails."""
        begun = time.monotonic()
        run = self.start(place, words)
        run.join()
        if run.exitcode:
            sys.exit(f"{' '.join(words)}: exit code {run.exitcode}\n{place.with_name(f'{place.name}.log').read_text()}")
        return time.monotonic() - begun

    def wanted(self, name: str) -> dict[str, Any]:
        """Return the files of an uninterrupted run."""
        place = self.place(f"{name}-whole")
        self.whole(place, COMMANDS[name])
        return contents(place)


def prepare(bench: Bench) -> None:
    """Write the inputs of the commands: the demo model, an expanded model, a student to heal, texts, a recipe."""
    inputs = bench.work / "inputs"
    shutil.rmtree(inputs, ignore_errors=True)
    shutil.copytree(model_path(), inputs / "orion")
    words = ["once", "upon", "a", "time", "there", "was", "an", "old", "fox"]
    lines = [" ".join(words[(i * k) % len(words)] for k in range(1, 30)) for i in range(60)]
    (inputs / "lines.jsonl").write_text("".join(json.dumps({"text": f"{i} {x}"}) + "\n" for i, x in enumerate(lines)))
    (inputs / "text.txt").write_text("The keeper of the light counted seven ships. " * 30)
    (inputs / "recipe.toml").write_text(RECIPE)
    place = bench.place("prepared")
    bench.whole(place, ["expand", SOURCE, "grown", "--groups", "2", "--verify-tokens", "0"])
    bench.whole(place, ["convert", SOURCE, "student", "--norm", "opm", "--verify-tokens", "0", "--dtype", "float32"])
    for name in ("grown", "student"):
        (place / name).rename(inputs / name)


def contents(place: Path) -> dict[str, Any]:
    """Return the contents of all compared files below a directory, by relative path."""
    files = (file for file in sorted(place.rglob("*")) if not file.is_dir() and "tensorboard" not in file.parts)
    return {str(file.relative_to(place)): _content(file) for file in files}


def _content(file: Path) -> bytes | list[dict[str, Any]]:
    if file.name != "metrics.jsonl":
        return file.read_bytes()
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [{**line, "tokens_per_second": None} for line in lines if line["kind"] != "run"]


def trial(bench: Bench, name: str, seconds: float, wanted: dict[str, Any], chance: random.Random) -> Counter[str]:
    """Kill a command a few times, then repeat it until it ends; return the counts of each kind of end.

    Exits if the files differ from `wanted`.
    """
    place, words, counts = bench.place(f"{name}-trial"), COMMANDS[name], Counter[str]()
    while counts.total() < KILLS_A_TRIAL and not counts["too late"]:
        run = bench.start(place, words)
        run.join(chance.uniform(0, seconds))
        run.terminate() if chance.random() < 0.25 else run.kill()
        run.join()
        counts[ENDS.get(run.exitcode or 0, "too late")] += 1
    for _ in range(MOST_TIMES):
        run = bench.start(place, words)
        run.join()
        if run.exitcode == 0 or (run.exitcode == 2 and "exists already" in log_of(place).splitlines()[-1]):
            break
    else:
        sys.exit(f"{name}: does not end: exit code {run.exitcode}\n{log_of(place)[-2000:]}")
    counts["finished before"] += run.exitcode == 2
    found = contents(place)
    odd = sorted(path for path in {**found, **wanted} if found.get(path) != wanted.get(path))
    if odd:
        sys.exit(f"{name}: {', '.join(odd)}: not as a whole run leaves it; see {place}\n{log_of(place)[-2000:]}")
    return counts


def log_of(place: Path) -> str:
    """Return the output of a trial's commands."""
    return place.with_name(f"{place.name}.log").read_text()


def main() -> None:
    """Run the trials of each command and print how often it was killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=[*COMMANDS])
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(["__main__", *PRELOADED])
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        bench = Bench((given.work or Path(scratch)).resolve(), forks)
        bench.work.mkdir(parents=True, exist_ok=True)
        prepare(bench)
        chance, total = random.Random(given.seed), Counter[str]()  # noqa: S311 - not used for security
        wanted = {name: bench.wanted(name) for name in given.only}
        seconds = {name: bench.whole(bench.place(f"{name}-whole"), COMMANDS[name]) for name in given.only}
        shares = {name: seconds[name] ** -0.5 for name in given.only}  # fewer kills for slow commands
        for name in given.only:
            counts, share = Counter[str](), given.kills * shares[name] / sum(shares.values())
            while counts["killed"] + counts["terminated"] < share:
                found = trial(bench, name, seconds[name], wanted[name], chance)
                seconds[name] *= 0.9 if found["too late"] else 1.02  # adapts to the load of the machine
                counts += found
            print(f"{name:16} {seconds[name]:5.1f} s a run; {dict(counts)}", flush=True)
            total += counts
        print(f"{'all':16} {dict(total)}")


if __name__ == "__main__":
    main()
