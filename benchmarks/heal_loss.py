"""Time and memory of a distillation loss with a large vocabulary: chunks of tokens against whole logits.

    python benchmarks/heal_loss.py [--vocabulary 84608] [--tokens 2048] [--width 512] [--threads 2]

From given hidden states of teacher and student: logits of both, forward KL, gradients of the student's hidden states
and (unless the head is frozen) of its head, in float32. `plain` is the loop that one writes first: two products, two
log-softmaxes, `kl_div`, `backward`. Each round starts a process for each contender, in turns, so that all meet the
same weather; a process runs once to warm up and then `--runs` times. Memory is the peak of the process's anonymous
memory above what it held with its inputs, sampled every 5 ms. Processor seconds are of all threads: they hardly depend
on who else uses the machine. The rate is that of the four (frozen: three) products with the head that any way needs,
beside the machine's own on the same shapes and on square ones. Prints medians and writes them with machine, load,
command and commit to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import torch
from keeping import keep
from speed import anonymous
from torch.nn import functional

from kept.distillation.loss.chunked_loss import chunked_loss
from kept.distillation.loss.objective import Objective
from kept.distillation.loss.output_head import HeadInput

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENDERS = ("plain", "chunked", "plain, frozen head", "chunked, frozen head")


class Peak:
    """The largest memory of this process while something runs, in bytes above what it was; anonymous unless told."""

    def __init__(self, read: Callable[[int], int] = anonymous) -> None:
        self.read = read

    def __enter__(self) -> Self:
        """Begin."""
        self.before = self.largest = self.read(os.getpid())
        self.running = True
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self) -> None:
        """Sample until told to stop."""
        while self.running:
            self.largest = max(self.largest, self.read(os.getpid()))
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        """End."""
        self.running = False
        self.thread.join()
        self.above = self.largest - self.before


def inputs(given: argparse.Namespace, *, frozen: bool) -> tuple[HeadInput, HeadInput]:
    """Student and teacher: logits of size 3, the student's near the teacher's."""
    torch.manual_seed(0)
    hidden = torch.randn(given.tokens, given.width)
    weight = 3 * given.width**-0.5 * torch.randn(given.vocabulary, given.width)
    student = HeadInput((hidden + 0.3 * torch.randn_like(hidden)).requires_grad_(), weight.clone())
    student.weight_VD.requires_grad_(not frozen)
    return student, HeadInput(hidden, weight)


def plain(student: HeadInput, teacher: HeadInput, _: int) -> torch.Tensor:
    """Return the loss from the logits of all tokens at once."""
    with torch.no_grad():
        log_p = functional.log_softmax(functional.linear(teacher.hidden_ND, teacher.weight_VD), dim=-1)
    log_q = functional.log_softmax(functional.linear(student.hidden_ND, student.weight_VD), dim=-1)
    return functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def chunked(student: HeadInput, teacher: HeadInput, chunk: int) -> torch.Tensor:
    """A chunk at a time."""
    count = len(student.hidden_ND)
    targets, mask = torch.zeros(count, dtype=torch.long), torch.ones(count)
    return chunked_loss(student, teacher, targets, mask, Objective(), chunk).total


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """One contender in this process: seconds of each run, peak memory, and the loss for comparison."""
    student, teacher = inputs(given, frozen="frozen" in given.one)
    loss = plain if given.one.startswith("plain") else chunked
    seconds: list[float] = []
    processor: list[float] = []
    with Peak() as peak:
        for _ in range(1 + given.runs):
            student.hidden_ND.grad = student.weight_VD.grad = None
            start, busy = time.monotonic(), time.process_time()
            total = loss(student, teacher, given.chunk)
            torch.autograd.backward(total)
            seconds.append(time.monotonic() - start)
            processor.append(time.process_time() - busy)
            value = float(total.detach())
            del total
    assert student.hidden_ND.grad is not None
    norm = float(student.hidden_ND.grad.norm())
    measured = {"seconds": seconds[1:], "processor_seconds": processor[1:]}
    return {**measured, "peak_bytes": peak.above, "loss": value, "gradient_norm": norm}


def rates(given: argparse.Namespace) -> dict[str, float]:
    """Products a second, in GFLOP, on the shapes of the head and on square ones."""
    head = torch.randn(given.tokens, given.width), torch.randn(given.width, given.vocabulary)
    square = torch.randn(4096, 4096), torch.randn(4096, 4096)
    return {"head": rate(lambda: head[0] @ head[1], *head), "square": rate(lambda: square[0] @ square[1], *square)}


def rate(product: Callable[[], torch.Tensor], left: torch.Tensor, right: torch.Tensor) -> float:
    """The best of five."""
    best = min(timed(product) for _ in range(5))
    return 2 * left.shape[0] * left.shape[1] * right.shape[1] / best / 1e9


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    start = time.monotonic()
    work()
    return time.monotonic() - start


def run(given: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """Every round, each contender in a process of its own."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in (*CONTENDERS, "products")}
    asked = [
        f"--{name}={getattr(given, name)}" for name in ("vocabulary", "tokens", "width", "runs", "chunk", "threads")
    ]
    for _ in range(given.rounds):
        for name, results in found.items():
            command = [sys.executable, __file__, *asked, "--one", name]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            results.append(json.loads(said))
            print(f"{name}: {said.strip()}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    return found


def median(results: list[dict[str, Any]], key: str) -> float:
    """Over all runs of all processes."""
    return float(statistics.median(value for one in results for value in one[key]))


def summary(given: argparse.Namespace, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians, and what they are to one another."""
    machine = max(max(rates.values()) for rates in found["products"])
    rows: dict[str, dict[str, float]] = {}
    for name in CONTENDERS:
        seconds = median(found[name], "seconds")
        gflop = (3 if "frozen" in name else 4) * 2 * given.tokens * given.width * given.vocabulary / 1e9
        rows[name] = {
            "seconds": round(seconds, 4),
            "processor_seconds": round(median(found[name], "processor_seconds"), 4),
            "tokens_per_second": round(given.tokens / seconds, 1),
            "peak_mb": round(statistics.median(one["peak_bytes"] for one in found[name]) / 1e6, 1),
            "gflop_per_second": round(gflop / seconds, 1),
            "of_the_machines_rate": round(gflop / seconds / machine, 3),
            "loss": found[name][0]["loss"],
            "gradient_norm": found[name][0]["gradient_norm"],
        }
    pairs = (("plain", "chunked"), ("plain, frozen head", "chunked, frozen head"))
    return {
        "machine_gflop_per_second": round(machine, 1),
        "contenders": rows,
        "speed against plain": {b: round(rows[a]["seconds"] / rows[b]["seconds"], 2) for a, b in pairs},
        "processor time against plain": {
            b: round(rows[b]["processor_seconds"] / rows[a]["processor_seconds"], 3) for a, b in pairs
        },
        "memory against plain": {b: round(rows[b]["peak_mb"] / rows[a]["peak_mb"], 3) for a, b in pairs},
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, size in (("vocabulary", 84608), ("tokens", 2048), ("width", 512), ("chunk", 0)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--rounds", type=int, default=5, help="processes of each contender")
    parser.add_argument("--runs", type=int, default=3, help="runs in each process")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--one", help="measure one contender in this process")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.one:
        print(json.dumps(rates(given) if given.one == "products" else measure(given)))
        return
    found = run(given)
    results = {
        "threads": given.threads,
        "torch": torch.__version__,
        "sizes": {name: getattr(given, name) for name in ("vocabulary", "tokens", "width", "chunk", "rounds", "runs")},
        **summary(given, found),
        "runs": found,
    }
    few = f"-{given.threads}-threads" if given.threads != os.cpu_count() else ""
    keep(f"heal-loss{few}", results)


if __name__ == "__main__":
    main()
