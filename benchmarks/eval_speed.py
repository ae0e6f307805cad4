"""Compare `kept eval` with lm-eval's own hf backend on the same requests: processor seconds, and answer by answer.

    python benchmarks/eval_speed.py MODEL DATA --tasks arc_easy,hellaswag,piqa --limit 40 --rounds 3

Both run in float32 in this process, in turn. The hf backend runs with each of the batch sizes, and its fastest counts.
Seconds include tokenisation, in the tokenizer's process too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from lm_eval.models.huggingface import HFLM

import kept
from kept.evaluation.catalog import TaskCatalog
from kept.evaluation.harness import Harness
from kept.evaluation.subject import Subject
from kept.evaluation.tasks import build_task, prepared
from kept.loaded import open_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Answers = list[tuple[float, bool]]


def main() -> None:
    """Print a JSON object for each task, and one for all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint directory or GGUF file")
    parser.add_argument("data", type=Path, help="directory with the documents of the tasks")
    parser.add_argument("--tasks", default="arc_easy,hellaswag,piqa,winogrande")
    parser.add_argument("--limit", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--shots", type=int)
    parser.add_argument("--batches", default="1,8", help="batch sizes of the hf backend")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as scratch:
        compare(kept.convert(given.model, Path(scratch) / "model", dtype="float32", verify_tokens=0).path, given)


def compare(directory: Path, given: argparse.Namespace) -> None:
    """Compare both on a checkpoint that transformers can open."""
    ours = Harness(Subject(open_model(directory), torch.float32))
    theirs = {size: HFLM(str(directory), dtype="float32", device="cpu", batch_size=size) for size in sizes(given)}
    totals = []
    for name in given.tasks.split(","):
        (task,) = TaskCatalog.installed().tasks(name)
        asked = build_task(prepared(task, given.data, limit=given.limit, shots=given.shots))
        asked.build_all_requests(limit=given.limit)
        totals.append(compared(name, asked.instances, ours, theirs, given.rounds))
    print(json.dumps({"task": "all", **summary(totals)}))


def sizes(given: argparse.Namespace) -> list[int]:
    """Return the batch sizes of the hf backend."""
    return [int(size) for size in given.batches.split(",")]


def compared(name: str, requests: Sequence[Any], ours: Harness, theirs: dict[int, Any], rounds: int) -> dict[str, Any]:
    """Time both in turn, compare their answers, and print the median of each."""
    ours.loglikelihood(requests[:2])
    mine: list[float] = []
    other: dict[int, list[float]] = {size: [] for size in theirs}
    for _ in range(rounds):
        seconds, found = timed(lambda: ours.loglikelihood(requests))
        mine.append(seconds)
        for size, model in theirs.items():
            seconds, wanted = timed(lambda model=model: model.loglikelihood(requests, disable_tqdm=True))  # type: ignore[misc]
            other[size].append(seconds)
    size, best = min(((size, statistics.median(times)) for size, times in other.items()), key=lambda pair: pair[1])
    result = {"kept": statistics.median(mine), "hf": best, "hf batch": size, "requests": len(requests)}
    print(json.dumps({"task": name, **summary([result]), "hf batch": size, **difference(found, wanted)}), flush=True)
    return result


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return seconds and their ratio."""
    mine, other = (sum(result[key] for result in results) for key in ("kept", "hf"))
    requests = sum(result["requests"] for result in results)
    return {"requests": requests, "kept s": round(mine, 2), "hf s": round(other, 2), "ratio": round(other / mine, 2)}


def difference(found: Answers, wanted: Answers) -> dict[str, Any]:
    """Return the largest relative difference of the log-likelihoods, and how many greedy flags differ."""
    pairs = [*zip(found, wanted, strict=True)]
    apart = max(abs(a - b) / max(abs(b), 1e-6) for (a, _), (b, _) in pairs)
    return {"largest relative difference": apart, "greedy differs": sum(a != b for (_, a), (_, b) in pairs)}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the processor seconds of a call, those of child processes included, and its result."""
    before = processor_seconds()
    found = work()
    return processor_seconds() - before, found


def processor_seconds() -> float:
    """Return the processor time of this process and its children."""
    processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return time.process_time() + sum(sum(one.cpu_times()[:2]) for one in processes[1:])


if __name__ == "__main__":
    main()
