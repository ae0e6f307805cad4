"""Memory and speed of healing as `kept plan` predicts them and as measured here; speed-up of two ranks.

    python benchmarks/heal_cost.py [--rounds 3]
    python benchmarks/heal_cost.py --paper        the same model's figures for machines that are not here

Each configuration is a run of `kept heal`'s loop in processes of its own, one thread a rank: a stock Llama (random
weights) learns from another, 8 rows of 256 tokens a step, float32, with a measurement before and after and checkpoints
in between. Predicted from the two specs and from what this machine's products and memory reached, measured in the same
round (cluster.py, `here`). Memory is the peak of a rank's resident memory above what it held before a model was
loaded, sampled every 5 ms. Seconds a step are the median behind the first; what is held against the prediction are
processor seconds, which hardly depend on who else uses the machine. Writes medians with machine, load, command and
commit to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from heal_speed import LENGTH, ROWS, Steps, asked, loop, prepare
from keeping import keep, own

from kept.commands.forecast import forecast
from kept.distillation.cluster import Cluster, cluster, here
from kept.distillation.cost.estimate import cost
from kept.distillation.cost.run_shape import RunShape
from kept.distillation.settings import HealSettings
from kept.distillation.train.choose_trainable import trainable
from kept.distillation.train.process_group import process_group
from kept.loaded import open_model

SMALL = {"vocabulary": 4096, "width": 256, "layers": 8}
WIDE = {"vocabulary": 4096, "width": 512, "layers": 6}
LARGE = {"vocabulary": 84608, "width": 256, "layers": 8}

RUNS: tuple[dict[str, Any], ...] = (
    {**SMALL, "train": "norms"},
    {**SMALL, "train": "all"},
    {**SMALL, "train": "all", "checkpointing": True},
    {**SMALL, "train": "all", "ranks": 2},
    {**WIDE, "train": "norms", "checkpointing": True},
    {**WIDE, "train": "all"},
    {**LARGE, "train": "norms"},
    {**LARGE, "train": "all"},
)
"""The runs: shapes, trainable parameters, gradient checkpointing, ranks."""

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "attention_bias": False,
    "tie_word_embeddings": False,
    "max_position_embeddings": 8192,
}
KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
)  # fmt: skip
PAPER: dict[str, tuple[int, ...]] = {
    "Orion-14B": (84608, 5120, 15360, 40, 40, 40),
    "70 B": (128256, 8192, 28672, 80, 64, 8),
    "405 B": (128256, 16384, 53248, 126, 128, 8),
}
"""Shapes on paper, as their configs state them."""

PLANS = (
    ("Orion-14B", "norms", "h100", 8, 8),
    ("Orion-14B", "norms", "8xh100", 64, 1),
    ("Orion-14B", "all", "8xh100", 64, 8),
    ("70 B", "norms", "8xh100", 64, 8),
    ("70 B", "all", "64xh100", 256, 4),
    ("405 B", "norms", "64xh200", 64, 1),
    ("405 B", "norms", "1024xh100", 1024, 1),
    ("405 B", "all", "1024xh200", 1024, 1),
)
"""Model, what learns, cluster, rows of a step, and in how many parts they are taken."""


def rank(given: argparse.Namespace) -> dict[str, Any]:
    """One rank of a run, in this process."""
    torch.set_num_threads(1)
    settings = asked(given, gradient_checkpointing=given.checkpointing, save_every=2)
    steps = Steps(given)
    with process_group() as one:
        made = loop(given, given.models, one, settings, steps)
        steps.loaded()
        made.run()
    return steps.measured()


def measured(run: dict[str, Any], given: argparse.Namespace) -> dict[str, float]:
    """A run's processes: the largest peak of a rank, seconds and processor seconds of a step."""
    count = run.get("ranks", 1)
    with tempfile.TemporaryDirectory() as work, socket.socket() as free:
        folder = Path(work)
        prepare(argparse.Namespace(**run), folder)
        free.bind(("127.0.0.1", 0))
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
        free.close()
        command = [sys.executable, __file__, "--models", work, "--rank", json.dumps({**run, "runs": given.runs})]
        own = {**os.environ, **where, "OMP_NUM_THREADS": "1"}
        started = [
            subprocess.Popen(command, env={**own, "RANK": str(number)}, stdout=subprocess.PIPE, text=True)
            for number in range(count)
        ]
        said = [json.loads(process.communicate()[0].strip().splitlines()[-1]) for process in started]
    return {
        "bytes": max(one["loop_bytes"] for one in said),
        "seconds": statistics.median(said[0]["seconds"]),
        "processor_seconds": statistics.median(said[0]["processor_seconds"]),
    }


def predicted(run: dict[str, Any], machine: Cluster, given: argparse.Namespace) -> dict[str, Any]:
    """Return the prediction for the same run."""
    with tempfile.TemporaryDirectory() as work:
        prepare(argparse.Namespace(**run), Path(work))
        student, teacher = (open_model(Path(work) / name).program for name in ("student", "teacher"))
    wanted = argparse.Namespace(**run, warm=1, runs=given.runs)
    settings = asked(wanted, gradient_checkpointing=run.get("checkpointing", False))
    whole = RunShape(student.spec, teacher.spec, trainable(student, run["train"]), settings)
    count = run.get("ranks", 1)
    # Each rank has a thread of its own, and all the memory that it wants.
    found = cost(whole, replace(machine, ranks=count, node=count))
    return {"bytes": found.bytes_per_rank, "seconds": ROWS * LENGTH / found.tokens_per_second, "memory": found.memory}


def compare(given: argparse.Namespace) -> list[list[dict[str, float]]]:
    """All runs in turns."""
    found: list[list[dict[str, float]]] = [[] for _ in RUNS]
    for _ in range(given.rounds):
        for run, results in zip(RUNS, found, strict=True):
            results.append(measured(run, given))
            print(run, results[-1], f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return found


def table(found: list[list[dict[str, float]]], given: argparse.Namespace) -> dict[str, Any]:
    """Each run beside its prediction from what one thread of this machine reaches, by its own clock."""
    torch.set_num_threads(1)
    machine = here(clock=time.process_time)
    rows = [row(run, predicted(run, machine, given), results) for run, results in zip(RUNS, found, strict=False)]
    return {"machine": asdict(machine.device), "rows": rows, "scaling": scaling(rows), "runs": found}


def row(run: dict[str, Any], paper: dict[str, Any], results: list[dict[str, float]]) -> dict[str, Any]:
    """One configuration: predicted, measured, and their ratios."""
    seen = {key: statistics.median(one[key] for one in results) for key in results[0]}
    return {
        **run,
        "predicted_mb": round(paper["bytes"] / 1e6),
        "measured_mb": round(seen["bytes"] / 1e6),
        "memory_ratio": round(seen["bytes"] / paper["bytes"], 2),
        "predicted_tokens_per_second": round(ROWS * LENGTH / paper["seconds"]),
        "measured_tokens_per_second": round(ROWS * LENGTH / seen["seconds"]),
        "tokens_a_processor_second_of_a_rank": round(ROWS * LENGTH / seen["processor_seconds"]),
        "speed_ratio": round(paper["seconds"] / seen["processor_seconds"], 2),
        "memory": {name: round(size / 1e6, 1) for name, size in paper["memory"].items()},
    }


def scaling(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the speed-up of two ranks over one, for each run that was made with both."""
    pairs: dict[str, dict[str, float]] = {}
    for two in (row for row in rows if row.get("ranks") == 2):
        same = ("vocabulary", "width", "layers", "train")
        one = next(
            r for r in rows if all(r[k] == two[k] for k in same) and "ranks" not in r and "checkpointing" not in r
        )
        pairs[" ".join(str(two[key]) for key in same)] = {
            key: round(two[key] / one[key], 2)
            for key in ("measured_tokens_per_second", "tokens_a_processor_second_of_a_rank", "measured_mb")
        }
    return pairs


def paper() -> str:
    """A table of what healing would take where it was not run: 123 million tokens in rows of 4,096."""
    lines = [
        "| model | learns | on | rows a step | a rank's memory | fits | tokens/s | a GPU | hours | GPU hours |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    with tempfile.TemporaryDirectory() as work:
        for name, train, where, rows, parts in PLANS:
            folder = Path(work) / name
            folder.mkdir(exist_ok=True)
            (folder / "config.json").write_text(json.dumps({**LLAMA, **dict(zip(KEYS, PAPER[name], strict=True))}))
            settings = HealSettings(
                student=str(folder),
                teacher=str(folder),
                out="",
                train=train,
                tokens=123_000_000,
                batch_size=rows // parts,
                gradient_accumulation=parts,
                sequence_length=4096,
                dtype="bfloat16",
                gradient_checkpointing=True,
            )
            machines = cluster(where)
            found = forecast(settings, machines).cost
            size = f"{found.bytes_per_rank / 1e9:.0f} of {found.limit / 1e9:.0f} GB"
            speed = f"{found.tokens_per_second:,.0f} | {found.tokens_per_second / machines.ranks:,.0f}"
            hours = f"{found.hours:.2g} | {found.hours * machines.ranks:.3g}"
            fits = "yes" if found.fits else "no"
            lines.append(f"| {name} | {train} | {where} | {rows} | {size} | {fits} | {speed} | {hours} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="of all configurations")
    parser.add_argument("--runs", type=int, default=4, help="steps that count in each")
    parser.add_argument("--paper", action="store_true", help="print the table for other machines")
    parser.add_argument("--again", type=Path, help="predict again, beside the runs that a result file has")
    parser.add_argument("--models", type=Path, help="where the models of --rank are")
    parser.add_argument("--rank", type=json.loads, help="be one rank of a run")
    given = parser.parse_args()
    if given.paper:
        print(paper())
        return
    if given.rank:
        values = {"checkpointing": False, **given.rank, "models": given.models, "warm": 1}
        print(json.dumps(rank(argparse.Namespace(**values))))
        return
    kept = json.loads(given.again.read_text()) if given.again else {}
    found = table(kept["runs"] if kept else compare(given), given)
    made_by = kept.get("runs_were_made_by", own())
    keep("heal-cost", {"runs_were_made_by": made_by, "torch": torch.__version__, **found})


if __name__ == "__main__":
    main()
