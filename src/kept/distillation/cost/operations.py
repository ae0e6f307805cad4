"""Floating-point operations per token of a forward pass and of a training step.

A weight of a matrix takes 2 operations per token in the forward pass, and 2 for each of its gradients (Kaplan et al.,
arXiv 2001.08361, section 2.1).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from kept.ir.slots import slots

if TYPE_CHECKING:
    from kept.distillation.train.trainable import Trainable
    from kept.ir.spec import Layer, Spec

SCORES_BACKWARD = 2.5
"""Operations of attention's backward pass per operation of its forward pass, which it repeats (Dao, arXiv 2307.08691,
section 4.1)."""

LOOKUP_TABLES = {"embedding.weight", "positions.weight"}
"""Slots that are read by index: they have two axes and no matrix product."""


PRODUCTS = {"matrix", "conv"}
"""Roles of slots that are multiplied with activations, each element once per token. Their gradients need the inputs."""


def parameter_count(spec: Spec) -> int:
    """Return the number of weights of a spec."""
    return sum(math.prod(slot.shape) for slot in slots(spec).values())


def lora_parameters(spec: Spec, trainable: Trainable) -> dict[str, int]:
    """Return the number of LoRA parameters of each adapted slot; empty without LoRA."""
    shapes, lora = slots(spec), trainable.lora
    return {} if lora is None else {name: lora.rank * sum(shapes[name].shape) for name in lora.slots}


def lora_parameter_count(spec: Spec, trainable: Trainable) -> int:
    """Return the number of LoRA parameters."""
    return sum(lora_parameters(spec, trainable).values())


def first_backward_layer(trainable: Trainable, depth: int) -> int:
    """Return the first layer with a backward pass: layers below the first trainable parameter have none.

    Returns `depth` if no layer has one.
    """
    if LOOKUP_TABLES & set(trainable.slots):
        return 0
    layers = [int(name.split(".")[1]) for name in trainable.reached if name.startswith("layers.")]
    return min(layers, default=depth)


def forward_operations(spec: Spec, length: int) -> float:
    """Return the operations per token of a forward pass over rows of `length` tokens, attention included."""
    return sum(_layer_operations(layer, spec.width, length) for layer in spec.layers) + _head_operations(spec)


def student_operations(spec: Spec, trainable: Trainable, length: int, *, recompute: bool = False) -> float:
    """Return the operations per token of a student: forward pass, gradients of activations, gradients of weights.

    `recompute` adds the second forward pass of gradient checkpointing.
    """
    layers = spec.layers[first_backward_layer(trainable, spec.depth) :]
    forward = sum(_layer_operations(layer, spec.width, length) for layer in layers)
    scores = sum(_score_operations(layer, spec.width, length) for layer in layers)
    backward = forward + (SCORES_BACKWARD - 1) * scores
    has_backward = bool(layers) or any("final_norm" in name for name in trainable.slots)
    head = _head_operations(spec) if has_backward else 0.0
    lora = (4 if recompute else 3) * 2.0 * lora_parameter_count(spec, trainable)
    recomputed = forward if recompute else 0.0
    return forward_operations(spec, length) + backward + recomputed + head + _weight_gradients(spec, trainable) + lora


def _weight_gradients(spec: Spec, trainable: Trainable) -> float:
    """Return the operations per token of the gradients of trainable matrices."""
    chosen = set(trainable.slots)
    matrices = sum(
        math.prod(slot.shape)
        for name, slot in slots(spec).items()
        if name in chosen - LOOKUP_TABLES and slot.role in PRODUCTS
    )
    tied_head = spec.head.tied and "embedding.weight" in chosen
    return 2.0 * matrices + (_head_operations(spec) if tied_head else 0.0)


def _layer_operations(layer: Layer, width: int, length: int) -> float:
    return sum(branch.op.cost(width, length).total_flops for branch in layer.branches)


def _score_operations(layer: Layer, width: int, length: int) -> float:
    costs = (branch.op.cost(width, length) for branch in layer.branches)
    return sum(cost.score_flops * cost.pairs for cost in costs)


def _head_operations(spec: Spec) -> float:
    return 2.0 * spec.vocabulary * spec.width
