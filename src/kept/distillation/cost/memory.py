"""Bytes of memory that one rank of a healing run takes, by purpose."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

from kept.distillation.cost.operations import (
    PRODUCTS,
    first_backward_layer,
    lora_parameter_count,
    lora_parameters,
    parameter_count,
)
from kept.distillation.loss import chunk_size
from kept.distillation.train.trainable import GRADIENT, MASTER, MOMENTS
from kept.ir.slots import layer_slots, slots

if TYPE_CHECKING:
    from kept.distillation.cluster import Cluster
    from kept.distillation.cost.run_shape import RunShape
    from kept.ir.spec import Layer, Spec

LOGIT_VALUES = 6
"""Values in float32 that the losses compute for each logit of a block: two log-probabilities, two probabilities, their
difference, the gradient."""

RUNTIME = 1e8
"""Bytes that torch itself takes on a CPU: modules imported late, and buffers of matrix products."""

GATHERED_LAYERS = 2
"""Layers that a rank of several holds complete: the one that computes, and the one that is prefetched."""


def memory(shape: RunShape, cluster: Cluster) -> dict[str, float]:
    """Return the bytes that one rank takes, by purpose. Purposes that take nothing are left out."""
    found = {**_weights(shape, cluster.ranks), **_activations_and_logits(shape, cluster)}
    if cluster.host:  # with accelerators, these are in the memory of the host
        found |= _host_copies(shape, cluster.ranks, found["activations"] + found["logits"])
    if shape.value_bytes < MASTER and cluster.ranks == 1:
        found["autocast copies"] = float(shape.value_bytes * shape.trainable.held)  # of each float32 matrix
    return {name: value for name, value in found.items() if value}


def kept_values(layer: Layer, width: int, *, is_trainable: bool) -> int:
    """Return the values per token that a layer keeps for its backward pass: inputs of its norms and products.

    Each branch's norm keeps the stream and its own output, a post-norm its input. Trainable matrices keep their inputs.
    """
    costs = [branch.op.cost(width, 1) for branch in layer.branches]
    norms = sum(2 + (branch.post_norm is not None) for branch in layer.branches)
    kept = norms * width + sum(cost.kept_values for cost in costs)
    return kept + (sum(cost.inputs for cost in costs) if is_trainable else 0)


def _weights(shape: RunShape, ranks: int) -> dict[str, float]:
    """Return the bytes of weights, gradients and optimizer state, which are sharded over the ranks."""
    width, held = shape.value_bytes, shape.trainable.held
    student = parameter_count(shape.student) + lora_parameter_count(shape.student, shape.trainable)
    return {
        "student": width * student / ranks,
        "teacher": 0.0 if shape.teacher is None else width * parameter_count(shape.teacher) / ranks,
        "training state": held * (MASTER - width + GRADIENT + MOMENTS) / ranks,
        "gathered weights": _gathered(shape) if ranks > 1 else 0.0,
    }


def _activations_and_logits(shape: RunShape, cluster: Cluster) -> dict[str, float]:
    tokens = shape.tokens(cluster.ranks)
    return {"activations": _activations(shape, tokens), "logits": _logits(shape, tokens, cluster)}


def _host_copies(shape: RunShape, ranks: int, freed: float) -> dict[str, float]:
    """Return the bytes of the best weights, and of a checkpoint's copy less the `freed` bytes between two steps."""
    held = shape.trainable.held
    written = (MASTER + MOMENTS) * held / ranks + float(MASTER * held)
    return {"best weights": float(MASTER * held), "checkpoint": max(0.0, written - freed), "runtime": RUNTIME}


def _activations(shape: RunShape, tokens: int) -> float:
    """Return the bytes kept for the student's backward pass, and those of one layer while it runs."""
    spec = shape.student
    kept = _kept_by_layer(shape)
    if shape.settings.gradient_checkpointing:
        kept = [spec.width for one in kept if one] + [max(kept)]
    hidden_states = spec.depth * spec.width * (2 if shape.settings.hidden else 0)
    peak = max(_peak_values(layer, spec.width) for layer in spec.layers)
    return float(tokens * shape.value_bytes * (sum(kept) + hidden_states + peak))


def _kept_by_layer(shape: RunShape) -> list[int]:
    """Return the values per token that each layer keeps for its backward pass; 0 for a layer without one."""
    spec, lora = shape.student, shape.trainable.lora
    own = slots(spec)
    reached = [name for name in shape.trainable.reached if name.startswith("layers.")]
    trained = {name.split(".")[1] for name in reached if own[name].role in PRODUCTS}
    rank, adapted = (0, ()) if lora is None else (lora.rank, lora.slots)
    updates = Counter(name.split(".")[1] for name in adapted)  # the output of A is kept for B
    first = first_backward_layer(shape.trainable, spec.depth)
    return [
        0
        if number < first
        else kept_values(layer, spec.width, is_trainable=str(number) in trained) + rank * updates[str(number)]
        for number, layer in enumerate(spec.layers)
    ]


def _peak_values(layer: Layer, width: int) -> int:
    """Return the values per token that exist only while a layer runs."""
    return 4 * width + sum(branch.op.cost(width, 1).peak_values for branch in layer.branches)


def _logits(shape: RunShape, tokens: int, cluster: Cluster) -> float:
    """Return the bytes of the models' logits of a chunk, and of the values that the losses compute for a block."""
    vocabulary = shape.student.vocabulary
    chunk = float(min(chunk_size.chunk_tokens(vocabulary, host=cluster.host), tokens) * vocabulary)
    block = min(chunk, chunk_size.BLOCK) if cluster.host else chunk
    return len(shape.specs) * chunk * shape.value_bytes + LOGIT_VALUES * block * MASTER


def _gathered(shape: RunShape) -> float:
    """Return the bytes of complete weights on a rank of several: embeddings, heads, two layers, a group's gradients."""
    ends = sum(parameter_count(spec) - sum(_layer_parameters(spec)) for spec in shape.specs)
    layer = max(max(_layer_parameters(spec)) for spec in shape.specs)
    width = shape.value_bytes
    return width * (ends + GATHERED_LAYERS * layer) + (width + GRADIENT) * _largest_trainable_group(shape)


def _largest_trainable_group(shape: RunShape) -> int:
    """Return the most trainable parameters of one sharding group: a layer, or everything outside the layers."""
    shapes = slots(shape.student)
    trained = [(name, math.prod(shapes[name].shape)) for name in shape.trainable.slots]
    groups: Counter[str] = Counter()
    for name, count in (*trained, *lora_parameters(shape.student, shape.trainable).items()):
        groups[name.split(".")[1] if name.startswith("layers.") else ""] += count
    return max(groups.values(), default=0)


def _layer_parameters(spec: Spec) -> list[int]:
    return [sum(math.prod(slot.shape) for _, slot in layer_slots(layer, spec.width)) for layer in spec.layers]
