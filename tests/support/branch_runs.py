"""Layerwise runs of tiny programs in memory: a teacher, and a student with other weights in some branches."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from kept.distillation.data.mixture import Mixture
from kept.distillation.data.packing import BatchStream
from kept.distillation.settings import HealSettings
from kept.distillation.train.layerwise import LayerwisePlan, load_layerwise
from kept.distillation.train.metrics import Metrics
from kept.distillation.train.process_group import process_group
from kept.distillation.train.run_checkpoints import RunCheckpoints
from kept.distillation.train.student_branch import BranchPair
from kept.distillation.train.trainer import Trainer
from kept.ir.stream_map import IDENTITY
from kept.ir.tensors import InMemory
from kept.reporting import Silent
from support.heal_data import tokens_of
from support.heal_runs import finish, start_ranks
from support.logits import random_program
from support.pass_helpers import layer_spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from kept.distillation.train.progress import GroupProgress
    from kept.ir.program import Program

STEPS, EVERY = 12, 4

BRANCHES = ("layers.0.mixer", "layers.1.mlp", "layers.2.mixer")


def disturbed(program: Program, branches: Sequence[str], size: float = 0.3) -> Program:
    """The program with noise on the matrices of some branches, relative to their own spread."""
    random = torch.Generator().manual_seed(1)
    changed = {}
    for name, weight in program.weights.items():
        if name.startswith(tuple(f"{branch}." for branch in branches)) and len(weight.shape) == 2:
            value = weight.value("float64")
            noise = torch.randn(value.shape, generator=random, dtype=torch.float64)
            changed[name] = InMemory(weight.shape, weight.dtype, value + size * value.std() * noise)
    return program.updated(program.spec, changed)


def plan_of(student: Program, branches: Sequence[str]) -> LayerwisePlan:
    pairs = []
    for branch in branches:
        _, layer, name = branch.split(".")
        slots = tuple(slot for slot in student.weights if slot.startswith(f"{branch}."))
        pairs.append(BranchPair(int(layer), int(layer), name, slots))  # type: ignore[arg-type]
    return LayerwisePlan(pairs, IDENTITY)


@contextmanager
def branch_trainer(
    folder: Path, branches: Sequence[str] = BRANCHES, size: float = 0.3, **changes: Any
) -> Iterator[Trainer]:
    """A trainer of branches of a random model, whose weights are those of the teacher with noise of `size`."""
    folder.mkdir(exist_ok=True, parents=True)
    given = {
        "tokens": STEPS * 24, "batch_size": 2, "sequence_length": 12, "eval_every": EVERY, "save_every": 5,
        "learning_rate": 1e-2, "calibration_tokens": 480, "layerwise": True, **changes,
    }  # fmt: skip
    settings = HealSettings("student", str(folder), "teacher", **given)
    teacher = random_program(layer_spec())
    student = disturbed(teacher, BRANCHES, size)
    documents = tokens_of([9] * 40)
    documents.ids[:] %= 7
    with process_group("cpu") as ranks:
        stream = BatchStream(Mixture({"text": documents}), 2, 12)
        task = load_layerwise(settings, ranks, plan_of(student, branches), student, teacher)
        task.calibrate(stream, Silent())
        metrics = Metrics(folder, quiet=not ranks.is_first)
        yield Trainer(settings, ranks, task, stream, RunCheckpoints(folder, ranks), metrics)


def branches_trained(folder: Path, *given: Any, **options: Any) -> Mapping[str, GroupProgress]:
    with branch_trainer(folder, *given, **options) as made:
        return made.run()


def branches_trained_on_two_ranks(folder: Path) -> list[dict[str, Any]]:
    """Each rank's best weights of all branches, the names of its own, and the histories."""
    assert finish(start_ranks(_branches_as_rank, 2, str(folder))) == [0, 0]
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]


def _branches_as_rank(folder: str) -> None:
    with branch_trainer(Path(folder)) as made:
        found = made.run()
        best, own = made.best_weights(), [name for name, one in found.items() if one.best]
        histories = {name: str(one.outcome()) for name, one in found.items()}
    torch.save({"best": best, "own": own, "histories": histories}, Path(folder) / f"rank-{os.environ['RANK']}.pt")
