"""Gated and plain MLPs, every bias, every activation, fused and split."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import torch

from kept.ir.tensors import InMemory
from kept.nn.mlp import ACTIVATIONS
from support.logits import logits, random_program
from support.plain import activation, plain_logits
from support.specs import plain_spec, with_mixer, with_mlp

if TYPE_CHECKING:
    from kept.ir import spec as ir
    from kept.ir.program import Program

EXACT = 1e-11
"""Logits of size 1 to 10 after one or two layers, both sides in float64."""

TOKENS = [3, 1, 4, 1, 5, 9, 2]


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations(name: ir.Activation) -> None:
    """One rounding of a handful of operations in float64; the others are not this one."""
    x = torch.linspace(-6, 6, 121, dtype=torch.float64)
    wanted = torch.tensor([activation(name, number) for number in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(ACTIVATIONS[name](x), wanted, rtol=1e-12, atol=1e-14)
    for other in set(ACTIVATIONS) - {name}:
        assert not torch.allclose(ACTIVATIONS[other](x), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", list(ACTIVATIONS))
@pytest.mark.parametrize("gated", [True, False], ids=["gated", "plain"])
def test_each_activation_in_each_kind(name: ir.Activation, gated: bool) -> None:  # noqa: FBT001 - a parameter
    program = random_program(with_mlp(plain_spec(1), activation=name, gated=gated, up_bias=True))
    found = logits(program, torch.tensor([TOKENS]))[0]
    torch.testing.assert_close(found, plain_logits(program, TOKENS), rtol=0, atol=EXACT)


@pytest.mark.parametrize("biases", list(itertools.product([True, False], repeat=3)), ids=str)
def test_each_combination_of_biases(biases: tuple[bool, bool, bool]) -> None:
    names = ("gate_bias", "up_bias", "down_bias")
    program = random_program(with_mlp(plain_spec(1), **dict(zip(names, biases, strict=True))))
    found = logits(program, torch.tensor([TOKENS]))[0]
    torch.testing.assert_close(found, plain_logits(program, TOKENS), rtol=0, atol=EXACT)


def fuse(program: Program) -> Program:
    """Return the same weights, in one projection for query, key and value and one for gate and up."""
    spec = with_mlp(with_mixer(program.spec, fused=True), fused=True)
    changed = {}
    for i, (kind, (whole, parts)) in itertools.product(
        range(spec.depth),
        itertools.product(
            ("weight", "bias"),
            (("mixer.qkv", ("mixer.q", "mixer.k", "mixer.v")), ("mlp.gate_up", ("mlp.gate", "mlp.up"))),
        ),
    ):
        values = torch.cat([program.weights[f"layers.{i}.{part}.{kind}"].value("float64") for part in parts])
        changed[f"layers.{i}.{whole}.{kind}"] = InMemory(tuple(values.shape), "F64", values)
    return program.updated(spec, changed)


def test_fused_projections_equal_split_ones() -> None:
    """Rows of a matrix product do not depend on the other rows, so only the order of sums can differ."""
    spec = with_mixer(plain_spec(), heads=4, kv_heads=2, q_bias=True, k_bias=True, v_bias=True)
    program = random_program(with_mlp(spec, gate_bias=True, up_bias=True))
    fused, tokens = fuse(program), torch.tensor([TOKENS])
    torch.testing.assert_close(logits(fused, tokens), logits(program, tokens), rtol=0, atol=1e-12)


def test_fused_projections_in_the_wrong_order_would_show() -> None:
    """Negative control."""
    spec = with_mixer(plain_spec(), q_bias=True, k_bias=True, v_bias=True)
    program = random_program(with_mlp(spec, gate_bias=True, up_bias=True))
    fused, tokens = fuse(program), torch.tensor([TOKENS])
    for name in ("layers.0.mixer.qkv.weight", "layers.0.mlp.gate_up.weight"):
        rolled = fused.weights[name].value("float64").roll(fused.weights[name].shape[0] // 2, dims=0)
        swapped = replace(fused, weights={**fused.weights, name: InMemory(tuple(rolled.shape), "F64", rolled)})
        assert float((logits(swapped, tokens) - logits(program, tokens)).abs().max()) > 1e-2
