"""Norm biases carried by a constant: exact for streams of one length, far nearer than dropping them for others."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch

import kept
from kept.ir import spec as ir
from kept.ir.slots import readings
from kept.passes.carry_norm_bias import CarryNormBias
from kept.passes.centre import Centre
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.fold_multipliers import FoldMultipliers
from kept.passes.layer_norm_to_rms import LayerNormToRms
from kept.verification.calibration import calibrate
from support.logits import logits, program_of, random_program, some_tokens, stock_logits, worst
from support.pass_contract import PassContract
from support.pass_helpers import (
    LAYER_NORM,
    TOLERANCE,
    divergence,
    layer_spec,
    replaced,
    rms_spec,
    value,
    with_norms,
)
from support.specs import VOCABULARY
from support.stored import read_json, write_readable

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kept.ir.program import Program

TOKENS = some_tokens(4, 24, VOCABULARY, seed=2)


def lengths(program: Program) -> Mapping[str, torch.Tensor]:
    """Measured on tokens that nothing else sees."""
    return {name: found.lengths for name, found in calibrate(program, some_tokens(8, 24, VOCABULARY, seed=1)).items()}


def carried(program: Program) -> Program:
    """The whole way from LayerNorms."""
    return CarryNormBias(lengths(program))(LayerNormToRms()(Centre()(program)))


@cache
def weak(seed: int) -> Program:
    """A model whose parts write little beside the embedding, as lengths vary little in a trained one."""
    program = random_program(layer_spec(), seed)
    matrices = [name for name in program.weights if name.startswith("layers.") and name.endswith(".weight")]
    return replaced(program, {name: 0.3 * value(program, name) for name in matrices})


def silent(program: Program, length: float) -> Program:
    """The program whose layers write nothing, and whose streams all have one length beside their means."""
    writers = [n for n in program.weights if n.endswith(("mixer.o.weight", "mixer.o.bias", "down.weight", "down.bias"))]
    silence = {name: torch.zeros_like(value(program, name)) for name in writers}
    embedding = value(program, "embedding.weight")
    embedding = embedding - embedding.mean(1, keepdim=True)
    return replaced(program, {**silence, "embedding.weight": length * embedding / embedding.norm(dim=1, keepdim=True)})


BIASED = with_norms(rms_spec(centred=True), bias=True)
MEASURED = {reading.norm: torch.full((1,), 3.0) for reading in readings(BIASED)}


class TestCarryNormBias(PassContract):
    rewrite = CarryNormBias(MEASURED)
    works_on: ClassVar = {"RMSNorms": BIASED}
    refused = (
        (layer_spec(), "norms: are not RMSNorms of a centred stream; run layernorm-to-rmsnorm first"),
        (rms_spec(), "norms: are not RMSNorms of a centred stream; run layernorm-to-rmsnorm first"),
        (rms_spec(centred=True), "norms: have no bias; leave this pass out"),
        (
            replace(BIASED, layers=BIASED.layers[:1] * 4),
            "layers.3.mixer_norm: has no measured lengths; give text to measure on (--text FILE)",
        ),
    )
    prepared_by = (
        (replace(BIASED, embedding_multiplier=2.0), FoldMultipliers()),
        (replace(BIASED, head=ir.Head(normalised=True)), FoldHeadNorm()),
    )


@pytest.mark.parametrize("norm", [LAYER_NORM, ir.Norm("layer", 1e-3, bias=True, offset=1.0)])
def test_exact_where_all_streams_have_one_length(norm: ir.Norm) -> None:
    program = silent(random_program(layer_spec(norm=norm)), 3.0)
    stated = {reading.norm: torch.tensor([3.0], dtype=torch.float64) for reading in readings(program.spec)}
    made = CarryNormBias(stated)(LayerNormToRms()(Centre()(program)))
    assert worst(logits(made, TOKENS), logits(program, TOKENS)) < TOLERANCE
    measured = lengths(program)
    assert all(torch.allclose(found, torch.tensor(3.0, dtype=torch.float64)) for found in measured.values())


def test_another_length_than_was_measured_is_not_exact() -> None:
    """Negative control."""
    program = silent(random_program(layer_spec()), 3.0)
    other = {name: 1.1 * found for name, found in lengths(program).items()}
    wrong = CarryNormBias(other)(LayerNormToRms()(Centre()(program)))
    assert worst(logits(wrong, TOKENS), logits(program, TOKENS)) > 1e-3


@pytest.mark.parametrize("seed", range(4))
def test_far_nearer_than_dropping_the_biases(seed: int) -> None:
    program = weak(seed)
    wanted = logits(program, TOKENS)
    dropped = divergence(wanted, logits(LayerNormToRms("opm-centred")(Centre()(program)), TOKENS))
    found = divergence(wanted, logits(carried(program), TOKENS))
    assert 0 < found < dropped / 5


def test_no_norm_has_a_bias_and_none_is_added_elsewhere() -> None:
    spec = layer_spec(ir.Attention(4, 4, 4, ir.Rope(100.0, 4)), ir.Mlp(24, "silu"))
    made = carried(random_program(spec))
    assert not any(name.endswith("bias") for name in made.weights)
    assert all(reading.value == replace(LAYER_NORM, kind="rms", bias=False) for reading in readings(made.spec))
    assert all((value(made, f"{r.norm}.gain") == 1).all() for r in readings(made.spec))
    assert not made.spec.centred


def test_rows_do_not_depend_on_the_block_that_they_are_read_in() -> None:
    made = carried(random_program(layer_spec()))
    for name in ("embedding.weight", "layers.1.mlp.up.weight", "head.weight"):
        tensor = made.weights[name]
        whole = tensor.rows(0, tensor.shape[0], "float32")
        rows = [tensor.rows(i, i + 1, "float32") for i in range(tensor.shape[0])]
        assert torch.equal(torch.cat(rows), whole)


def test_the_command_makes_a_plain_llama(tmp_path: Path) -> None:
    """Without any text of the user's: the built-in sample will do."""
    source = write_readable(tmp_path / "orion", "orion")
    done = kept.convert(source, tmp_path / "out", norm="carried", verify_tokens=64)
    config = read_json(done.path / "config.json")
    assert (config["attention_bias"], config["mlp_bias"]) == (False, False)
    plain = kept.convert(source, tmp_path / "plain", norm="opm", verify_tokens=64)
    assert done.verification is not None
    assert plain.verification is not None
    assert done.verification.same is not None
    assert plain.verification.same is not None
    assert done.verification.same.kl < plain.verification.same.kl / 2
    assert worst(stock_logits(done.path, TOKENS), logits(program_of(done.path), TOKENS)) < 1e-3
