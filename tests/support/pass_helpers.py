"""Helpers of the tests of passes: strong architectures, weights that may not be read, and distances of functions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from kept.checkpoint.json_file import to_json
from kept.checkpoint.safetensors_writer import shards
from kept.checkpoint.staging import staging
from kept.errors import Refusal
from kept.ir import spec as ir
from kept.ir.program import Program
from kept.ir.promise import Promise
from kept.ir.slots import slots
from kept.ir.tensors import InMemory, Lazy, Precision, torch_dtype
from kept.passes.map_spec import map_layers, map_readers
from support.logits import logits, program_of, random_program, some_tokens, worst
from support.specs import VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from kept.families.table import Family
    from kept.passes.base import Pass

TOLERANCE = 1e-9
"""Tolerance of an EXACT pass in float64, in standard deviations of the logits."""

TOKENS = some_tokens(2, 12, VOCABULARY)

LAYER_NORM = ir.Norm("layer", 1e-3, bias=True)
RMS_NORM = ir.Norm("rms", 1e-3)
ROPE = ir.Rope(100.0, 8)

MIXER = ir.Attention(4, 2, 8, ROPE, q_bias=True, k_bias=True, v_bias=True, o_bias=True)
GATED = ir.Mlp(24, "silu", gate_bias=True, up_bias=True, down_bias=True)
PLAIN = ir.Mlp(24, "gelu_tanh", gated=False, up_bias=True, down_bias=True)


def layer_spec(
    mixer: ir.Attention = MIXER, mlp: ir.Mlp = GATED, norm: ir.Norm = LAYER_NORM, depth: int = 3, **changes: Any
) -> ir.Spec:
    """A decoder with LayerNorms and biases everywhere; `changes` are fields of the spec."""
    layer = ir.Layer(mixer, mlp, norm, norm)
    return replace(ir.Spec(VOCABULARY, 16, 40, (layer,) * depth, norm), **changes)


def rms_spec(mixer: ir.Attention = MIXER, mlp: ir.Mlp = GATED, norm: ir.Norm = RMS_NORM, **changes: Any) -> ir.Spec:
    """Return the same spec with RMSNorms."""
    return layer_spec(mixer, mlp, norm, **changes)


def with_norms(spec: ir.Spec, **changes: Any) -> ir.Spec:
    """The spec with every norm of the stream changed."""
    return map_readers(spec, lambda norm: replace(norm, **changes))


def of_layer_norms(spec: ir.Spec) -> ir.Spec:
    """The spec with a LayerNorm at every reader of the stream, nothing behind the parts, and a head of its own."""
    bare = map_layers(spec, lambda layer: replace(layer, mixer_post_norm=None, mlp_post_norm=None))
    named = map_readers(bare, lambda norm: replace(norm, kind="layer", eps=norm.eps or 1e-5))
    return replace(named, head=replace(spec.head, tied=False))


def ready_for_tail(spec: ir.Spec | None = None, seed: int = 0) -> Program:
    """A program whose stream has no mean, with RMSNorms without bias and a bias on the logits."""
    program = random_program(spec or rms_spec(head=ir.Head(bias=True)), seed)
    centred = {name: _without_mean(name, tensor.value("float64"), program) for name, tensor in program.weights.items()}
    return given(replace(program.spec, centred=True), centred)


def _without_mean(name: str, value: Tensor, program: Program) -> Tensor:
    if name == "embedding.weight":
        return value - value.mean(1, keepdim=True)
    written = name.startswith("layers.") and any(part in name for part in (".o.", ".down."))
    return value - value.mean(0, keepdim=True) if written else value


def given(spec: ir.Spec, values: Mapping[str, Tensor], dtype: str = "F64") -> Program:
    """A program in memory."""
    return Program(spec, {name: InMemory(tuple(value.shape), dtype, value) for name, value in values.items()})


def rounded(program: Program, dtype: str) -> Program:
    """Return the same program with its weights rounded to a dtype and declared as such."""
    stored = torch_dtype(dtype)
    values = {name: tensor.value("float64").to(stored).double() for name, tensor in program.weights.items()}
    return given(program.spec, values, dtype)


@dataclass(frozen=True)
class Unread(Lazy):
    """A tensor whose bytes must not be read: everything but them is known when a plan is made."""

    def rows(self, start: int, stop: int, precision: Precision) -> Tensor:  # noqa: ARG002 - Lazy's signature
        raise AssertionError(f"bytes of a {self.shape} tensor were read")


def unread(spec: ir.Spec, dtype: str = "F32") -> Program:
    """A program of any size without bytes."""
    return Program(spec, {name: Unread(slot.shape, dtype) for name, slot in slots(spec).items()})


def rewritten(before: Program, after: Program) -> set[str]:
    """The weights of `after` that are not the very tensors that `before` has under the same names."""
    return {name for name, tensor in after.weights.items() if before.weights.get(name) is not tensor}


def error(after: Program, before: Program, tokens: Tensor = TOKENS) -> float:
    """The largest difference of two functions in float64, in standard deviations of the logits."""
    return worst(logits(after, tokens), logits(before, tokens))


def keeps(rewrite: Pass, program: Program, tokens: Tensor = TOKENS) -> Program:
    """The pass's result, once it kept the function, read nothing when it ran, promised EXACT and did what it says."""
    assert rewrite.promise(program) is Promise.EXACT
    dry = rewrite(Program(program.spec, {n: Unread(t.shape, t.dtype) for n, t in program.weights.items()}))
    after = rewrite(program)
    assert rewrite.ensures(after.spec)
    assert dry.spec == after.spec
    assert {n: (t.shape, t.dtype) for n, t in dry.weights.items()} == {
        n: (t.shape, t.dtype) for n, t in after.weights.items()
    }
    assert error(after, program, tokens) < TOLERANCE
    return after


def replaced(program: Program, values: Mapping[str, Tensor]) -> Program:
    """The program with some weights set to other values."""
    assert set(values) <= set(program.weights)
    new = {name: InMemory(tuple(v.shape), program.weights[name].dtype, v) for name, v in values.items()}
    return program.updated(program.spec, new)


def refusal(rewrite: Pass, program: Program) -> str:
    """Return the message with which a pass refuses."""
    with pytest.raises(Refusal) as caught:
        rewrite(program)
    return str(caught.value)


def value(program: Program, name: str) -> Tensor:
    """One weight in float64."""
    return program.weights[name].value("float64")


def divergence(wanted: Tensor, found: Tensor) -> float:
    """KL(wanted || found) of two sets of logits, in nats per token."""
    log_p, log_q = (torch.log_softmax(x.double(), dim=-1) for x in (wanted, found))
    return float((log_p.exp() * (log_p - log_q)).sum(-1).mean())


def save(program: Program, family: Family, directory: Path) -> Path:
    """Write a program as a checkpoint of a family; returns the directory."""
    with staging(directory, {}) as stage:
        stage.write("config.json", to_json(family.write_config(program.spec, program.dtype)))
        for shard in shards(family.write(program)):
            stage.write_shard(shard, lambda _: None)
        stage.publish()
    return directory


def through_disk(program: Program, family: Family, directory: Path) -> Program:
    """Return a program after it was written and read again."""
    return program_of(save(program, family, directory))


def perturbed(program: Program, name: str, by: float = 1e-2) -> Program:
    """The program with noise on one weight, relative to its largest value."""
    old = value(program, name)
    scale = float(old.abs().max()) or 1.0
    noise = torch.randn(old.shape, dtype=old.dtype, generator=torch.Generator().manual_seed(1))
    return replaced(program, {name: old + by * scale * noise})
