"""What `kept heal --layerwise` brings: KL of the whole model from the teacher against tokens, and tokens a second.

    python benchmarks/layerwise.py STUDENT --teacher TEACHER --data english=corpus/en.txt [--data ...] --name mla50
    python benchmarks/layerwise.py ... --train 'layers.[0-5].mixer.*' --no-whiten --learning-rate 1e-4

The trainer is that of `kept heal`, on the same documents. At each held-out measurement the best weights so far are put
into the student, and the whole model is compared with the teacher on the held-out rows. Speed is that of the steps: in
tokens a processor second, of all threads, which hardly depends on who else uses the machine. The floor beside it is
what the operations of the products need at the rate of square products here: the teacher's forward pass without a
head, and forward and two backward products of each trained branch. Prints the figures and writes them with machine,
load, command and commit to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from keeping import keep

from kept.commands.heal_inputs import batch_stream
from kept.commands.layerwise_inputs import layerwise_inputs
from kept.commands.teacher_kl import KL_TOKENS, teacher_kl
from kept.commands.teacher_student import TeacherStudent
from kept.distillation.settings import HealSettings
from kept.distillation.train.layerwise import load_layerwise
from kept.distillation.train.metrics import Metrics
from kept.distillation.train.process_group import process_group
from kept.distillation.train.run_checkpoints import RunCheckpoints
from kept.distillation.train.trainer import Trainer
from kept.formatting import finite_median
from kept.output.record import record_table
from kept.progress_bars import ProgressBars

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.distillation.data.packing import BatchStream
    from kept.distillation.train.layerwise import LayerwisePlan
    from kept.distillation.train.trainable import Trainable
    from kept.ir.program import Program

SETTINGS = (
    "tokens",
    "learning_rate",
    "batch_size",
    "sequence_length",
    "eval_every",
    "calibration_tokens",
    "lr_schedule",
)


@dataclass
class MeasuredTrainer(Trainer):
    """A trainer that also compares the whole model at each measurement, and counts the processor seconds of steps."""

    points: list[dict[str, float]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    whole: Any = None

    def _measure(self) -> None:
        super()._measure()
        losses = [one.history[-1].losses["loss"] for one in self.progress.values()]
        kl = self.whole(self.best_weights())
        self.points.append(
            {"tokens": self.step * self.settings.tokens_a_step, "error": finite_median(losses), "kl": kl}
        )
        print(self.points[-1], f"{time.process_time():.0f} processor seconds", flush=True)

    def _update(self) -> Mapping[str, Mapping[str, float]]:
        begun = time.process_time()
        found = super()._update()
        self.seconds.append(time.process_time() - begun)
        return found


def main() -> None:
    """Train as asked, and keep what was found."""
    given = arguments()
    torch.set_num_threads(given.threads)
    asked = {name: getattr(given, name) for name in SETTINGS if getattr(given, name) is not None}
    for name in ("refit", "whiten"):
        asked |= {name: False} if getattr(given, f"no_{name}") else {}
    with tempfile.TemporaryDirectory() as folder:
        settings = HealSettings.from_table({
            "student": given.student, "teacher": given.teacher, "out": f"{folder}/out", "data": tuple(given.data),
            "layerwise": True, "hold_out": given.hold_out, "train": given.train, **asked,
        })  # fmt: skip
        pair = TeacherStudent.open(settings)
        plan, trained = layerwise_inputs(settings, pair, record_table(pair.student.path))
        stream = batch_stream(settings, pair, ProgressBars())
        rows = max(1, given.kl_tokens // settings.sequence_length)
        found = trained_run(settings, pair, plan, trained, stream, Path(folder), rows)
    keep(f"layerwise-{given.name}", {"student": Path(given.student).name, **found})


def trained_run(
    settings: HealSettings,
    pair: TeacherStudent,
    plan: LayerwisePlan,
    trained: Trainable,
    stream: BatchStream,
    folder: Path,
    rows: int,
) -> dict[str, Any]:
    """Train, and return the points and the speed. `rows` of each source are held out for the KL."""
    assert pair.teacher is not None
    student, teacher = pair.student.program, pair.teacher.program
    batches = stream.held_out(rows=rows)

    def whole(weights: Mapping[str, torch.Tensor]) -> float:
        changed = student.updated(student.spec, trained.weights(student, weights))
        return teacher_kl([changed], teacher, batches, torch.float32, torch.device("cpu"))[0]

    with process_group("cpu") as ranks:
        begun = time.process_time()
        task = load_layerwise(settings, ranks, plan, student, teacher)
        task.calibrate(stream, ProgressBars())
        calibrated = time.process_time() - begun
        checkpoints, metrics = RunCheckpoints(folder, ranks), Metrics(folder, quiet=True)
        trainer = MeasuredTrainer(settings, ranks, task, stream, checkpoints, metrics, whole=whole)
        trainer.run()
    steps = sorted(trainer.seconds)
    speed = settings.tokens_a_step / steps[len(steps) // 2]
    floor = product_rate() / operations(plan, student, teacher, settings)
    return {
        "held_out_tokens": int(sum(batch.mask_BT.sum() for batch in batches)),
        "branches": len(plan.pairs),
        "calibration_processor_seconds": round(calibrated, 1),
        "tokens_per_processor_second": round(speed, 1),
        "floor_tokens_per_processor_second": round(floor, 1),
        "points": trainer.points,
        "runs": {name: [m.losses["loss"] for m in one.history] for name, one in trainer.progress.items()},
    }


def operations(plan: LayerwisePlan, student: Program, teacher: Program, settings: HealSettings) -> float:
    """Return the operations per token: the teacher up to the last branch, and the branches three times."""
    last, length, width = max(pair.teacher_layer for pair in plan.pairs), settings.sequence_length, student.spec.width
    run = (branch.op for layer in teacher.spec.layers[: last + 1] for branch in layer.branches)
    own = (
        branch.op
        for pair in plan.pairs
        for branch in student.spec.layers[pair.layer].branches
        if branch.name == pair.name
    )
    ours, theirs = (sum(op.cost(width, length).total_flops for op in ops) for ops in (own, run))
    return theirs + 3 * ours


def product_rate() -> float:
    """Return the operations of square products in a processor second: the best of five."""
    square, best = torch.randn(2048, 2048), float("inf")
    for _ in range(5):
        begun = time.process_time()
        square @ square
        best = min(best, time.process_time() - begun)
    return 2 * 2048**3 / best


def arguments() -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student")
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--name", required=True, help="of the result file")
    parser.add_argument("--train", default="changed")
    parser.add_argument("--hold-out", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kl-tokens", type=int, default=KL_TOKENS, help="of each source, on which models are compared")
    for name, kind in (("tokens", str), ("learning-rate", float), ("batch-size", int), ("sequence-length", int)):
        parser.add_argument(f"--{name}", type=kind)
    for name, kind in (("eval-every", int), ("calibration-tokens", str), ("lr-schedule", str)):
        parser.add_argument(f"--{name}", type=kind)
    for name in ("refit", "whiten"):
        parser.add_argument(f"--no-{name}", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
