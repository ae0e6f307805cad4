"""What a run will take, before it is begun: memory per rank, tokens a second, hours, money.

Bytes and floating-point operations are counted from the two specs (Kaplan et al., arXiv 2001.08361, section 2.1: 2
operations a weight and token forward, as many again for each gradient); what a machine reaches of its peak is measured
once and told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.ir.slots import slots

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.distillation.settings import Settings
    from kept.distillation.trainable import Trainable
    from kept.ir.program import Program
    from kept.ir.spec import Spec

MASTER, GRADIENT, MOMENTS = 4, 4, 8
"""Bytes of a weight that learns."""

STREAMS = 18
"""Values as wide as the residual stream that a layer keeps for its backward: norms, projections, attention's output."""

HEAD_CHUNK = 1024
"""Tokens whose logits exist at a time, in float32: the student's, the teacher's, and one more for the gradient."""


@dataclass(frozen=True)
class Cluster:
    """Machines in a row: how many, what each holds (bytes), computes (operations a second), sends (bytes a second).

    `reached` is the part of the peak that training reaches; `price` is for one and an hour.
    """

    ranks: int = 1
    memory: float = 80e9
    operations: float = 989e12
    bandwidth: float = 450e9
    reached: float = 0.4
    price: float = 0.0


@dataclass(frozen=True)
class Cost:
    """What a run takes on a cluster; `memory` is of one rank, by what it is for, in bytes."""

    memory: Mapping[str, float]
    tokens_per_second: float
    hours: float
    price: float
    fits: bool

    @property
    def bytes_per_rank(self) -> float:
        """The sum."""
        return sum(self.memory.values())


def cost(student: Program, teacher: Program | None, learned: Trainable, settings: Settings, cluster: Cluster) -> Cost:
    """Predict a run."""
    width = 2 if settings.precision == "bfloat16" else 4
    rows = math.ceil(settings.batch / cluster.ranks)
    memory = {
        "student": _weights(student, width, cluster.ranks),
        "teacher": 0.0 if teacher is None else _weights(teacher, width, cluster.ranks),
        "learning": learned.parameters * (MASTER - width + GRADIENT + MOMENTS) / cluster.ranks,
        "activations": _activations(student.spec, rows * settings.length, width, checkpointing=settings.checkpointing),
        "logits": 3 * 4 * min(HEAD_CHUNK, rows * settings.length) * float(student.spec.vocabulary),
    }
    computed = operations_per_token(student, learned, settings) + (
        0.0 if teacher is None else forward_operations(teacher, settings.length)
    )
    seconds = computed * rows * settings.length / (cluster.operations * cluster.reached)
    if cluster.ranks > 1:
        # Each part of a batch gathers every weight of both models, the student's again for the backward.
        moved = width * (student.parameters * 2 + (0 if teacher is None else teacher.parameters))
        seconds = max(seconds, moved / cluster.bandwidth)
    rate = settings.batch * settings.length / seconds
    hours = settings.tokens / rate / 3600
    total = sum(memory.values())
    return Cost(memory, rate, hours, hours * cluster.price * cluster.ranks, total <= cluster.memory)


def forward_operations(program: Program, length: int) -> float:
    """Operations a token of one forward: two for each weight of a matrix, and attention over half of the row."""
    matrices = sum(
        math.prod(slot.shape)
        for name, slot in slots(program.spec).items()
        if len(slot.shape) == 2 and name not in {"embedding.weight", "positions.weight"}
    )
    tied = program.spec.vocabulary * program.spec.width if program.spec.head.tied else 0
    attention = sum(2 * layer.mixer.heads * layer.mixer.head_dim * length for layer in program.spec.layers)
    return 2.0 * (matrices + tied) + attention


def operations_per_token(program: Program, learned: Trainable, settings: Settings) -> float:
    """Operations a token of a step of the student: forward, the stream's gradient, and the learned weights' own."""
    forward = forward_operations(program, settings.length)
    again = forward if settings.checkpointing else 0.0
    return 2 * forward + again + 2.0 * learned.parameters


def _weights(program: Program, width: int, ranks: int) -> float:
    """A rank's part of a model, and the two layers and the head that it holds whole at a time."""
    if ranks == 1:
        return float(program.parameters * width)
    layers = (program.parameters - 2 * program.spec.vocabulary * program.spec.width) / program.spec.depth
    whole = 2 * layers + 2 * program.spec.vocabulary * program.spec.width
    return program.parameters * width / ranks + whole * width


def _activations(spec: Spec, tokens: int, width: int, *, checkpointing: bool) -> float:
    mlp = max((3 if layer.mlp.gated else 2) * layer.mlp.size for layer in spec.layers)
    one = (STREAMS * spec.width + mlp) * tokens * width
    return spec.depth * spec.width * tokens * width + one if checkpointing else float(spec.depth * one)
