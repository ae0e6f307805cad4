"""Seconds that a healing run spends in matrix products, memory traffic, communication and the optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.distillation.cost.memory import kept_values
from kept.distillation.cost.operations import (
    forward_operations,
    lora_parameter_count,
    parameter_count,
    student_operations,
)
from kept.distillation.train.trainable import GRADIENT, MASTER

if TYPE_CHECKING:
    from kept.distillation.cluster import Cluster
    from kept.distillation.cost.run_shape import RunShape

LOGIT_TRAFFIC, STREAM_TRAFFIC = 24, 3
"""Times that a logit, and a value that a layer keeps, is read or written outside of products, backward included."""

OPTIMIZER_TRAFFIC = 11
"""Times that AdamW and the gradient clipping read or write a value of a weight."""


def times(shape: RunShape, cluster: Cluster) -> dict[str, float]:
    """Return the seconds of one rank by what limits them: per batch, and per step for `optimizer`."""
    bandwidth = cluster.device.traffic
    tokens = shape.tokens(cluster.ranks)
    received = _received_values(shape) * (1 - 1 / cluster.ranks)
    return {
        "compute": tokens * _operations(shape) / cluster.rate(shape.settings.dtype),
        "memory bandwidth": tokens * _traffic(shape) / bandwidth,
        "communication": shape.value_bytes * received / cluster.link,
        "optimizer": OPTIMIZER_TRAFFIC * MASTER * shape.trainable.held / cluster.ranks / bandwidth,
    }


def step_seconds(seconds: dict[str, float], accumulation: int) -> float:
    """Return the seconds of an optimizer step of `accumulation` batches. Communication overlaps with the others."""
    batch = max(seconds["compute"] + seconds["memory bandwidth"], seconds["communication"])
    return batch * accumulation + seconds["optimizer"]


def _operations(shape: RunShape) -> float:
    """Return the operations per token of both models."""
    settings = shape.settings
    teacher = 0.0 if shape.teacher is None else forward_operations(shape.teacher, settings.sequence_length)
    return teacher + student_operations(
        shape.student, shape.trainable, settings.sequence_length, recompute=settings.gradient_checkpointing
    )


def _received_values(shape: RunShape) -> float:
    """Return the values that a rank receives per batch: both models' weights, the student's again, and gradients."""
    student = parameter_count(shape.student) + lora_parameter_count(shape.student, shape.trainable)
    teacher = 0 if shape.teacher is None else parameter_count(shape.teacher)
    return 2.0 * student + teacher + shape.trainable.held * GRADIENT / shape.value_bytes


def _traffic(shape: RunShape) -> float:
    """Return the bytes per token that are read and written outside of matrix products, in forward and backward."""
    passes = (shape.student, *shape.specs)
    values = sum(kept_values(layer, spec.width, is_trainable=False) for spec in passes for layer in spec.layers)
    return STREAM_TRAFFIC * shape.value_bytes * values + LOGIT_TRAFFIC * MASTER * shape.student.vocabulary
