"""LayerNorm to RMSNorm: exact on a centred stream, and what the three other ways lose."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar, get_args

import pytest
import torch
from hypothesis import given

from kept.ir import spec as ir
from kept.ir.promise import Promise
from kept.ir.slots import readings
from kept.passes.affine_tail import AffineTail, DropHeadBias
from kept.passes.centre import Centre
from kept.passes.fold_norm_bias import FoldNormBias
from kept.passes.layer_norm_to_rms import MODES, LayerNormToRms, Mode
from kept.verification.calibration import calibrate
from support.logits import logits, random_program, some_tokens
from support.pass_contract import PassContract, TargetPassContract
from support.pass_helpers import (
    LAYER_NORM,
    TOLERANCE,
    divergence,
    error,
    keeps,
    layer_spec,
    of_layer_norms,
    refusal,
    replaced,
    rewritten,
    rms_spec,
    unread,
    value,
    with_norms,
)
from support.specs import specs, with_layer

if TYPE_CHECKING:
    from kept.ir.program import Program

MEASURED = {reading.norm: torch.full((16,), 2.0) for reading in readings(layer_spec())}


def without_norm_biases(program: Program) -> Program:
    """The source with every norm bias set to zero."""
    biases = [name for name in program.weights if name.endswith("norm.bias")]
    return replaced(program, {name: torch.zeros_like(value(program, name)) for name in biases})


class TestLayerNormToRms(TargetPassContract):
    rewrite = LayerNormToRms()
    works_on: ClassVar = {
        "bias": layer_spec(centred=True),
        "no bias": layer_spec(norm=replace(LAYER_NORM, bias=False), centred=True),
        "no gain": layer_spec(norm=ir.Norm("layer", 1e-3, gain=False), centred=True),
    }
    served = layer_spec(norm=replace(LAYER_NORM, bias=False), centred=True)
    refused = ()
    prepared_by = ((layer_spec(), Centre()),)

    def check(self, before: Program, after: Program) -> None:
        assert not rewritten(before, after)
        assert [r.value for r in readings(after.spec)] == [replace(before.spec.final_norm, kind="rms")] * 7


@given(specs())
def test_exact_for_any_model_of_layer_norms(spec: ir.Spec) -> None:
    spec = of_layer_norms(spec)
    keeps(LayerNormToRms(), Centre()(random_program(spec)))


def test_a_stream_with_a_mean_would_change() -> None:
    """Negative control, forced past the refusal."""
    program = random_program(layer_spec())
    assert error(LayerNormToRms().run(program), program) > 1e-2


class TestCentredCopies(PassContract):
    rewrite = LayerNormToRms("opm-centred")
    works_on: ClassVar = {"centred": layer_spec(centred=True)}
    refused = ((layer_spec(), "residual stream: has a mean that RMSNorm would keep; run centre first"),)
    prepared_by = ((layer_spec(), Centre()),)


@pytest.mark.parametrize("mode", MODES)
def test_promises(mode: Mode) -> None:
    program = Centre()(unread(layer_spec()))
    rewrite = LayerNormToRms(mode, MEASURED)
    assert rewrite.promise(program) is (Promise.EXACT if mode == "exact" else Promise.LOSSY)
    assert rewrite.ensures(rewrite(program).spec)
    assert set(MODES) == set(get_args(Mode))


def test_opm_copies_gains_and_drops_biases() -> None:
    program = random_program(layer_spec())
    copied = LayerNormToRms("opm")(program)
    assert not rewritten(program, copied)
    assert set(program.weights) - set(copied.weights) == {name for name in program.weights if "norm.bias" in name}
    assert error(copied, program) > 1e-1


def test_opm_is_exact_where_there_is_neither_mean_nor_bias() -> None:
    """METHODS 1.2, first case: the two normalised vectors are equal."""
    program = without_norm_biases(Centre()(random_program(layer_spec())))
    assert error(LayerNormToRms("opm")(program), program) < TOLERANCE


def test_opm_centred_loses_the_biases_and_nothing_else() -> None:
    program = random_program(layer_spec())
    copied = LayerNormToRms("opm-centred")(Centre()(program))
    assert error(copied, without_norm_biases(program)) < TOLERANCE
    assert error(LayerNormToRms("opm")(program), without_norm_biases(program)) > 1e-2


def test_calibrated_takes_the_measured_gains() -> None:
    program = random_program(with_norms(layer_spec(), offset=1.0))
    converted = LayerNormToRms("calibrated", MEASURED)(program)
    assert rewritten(program, converted) == {f"{norm}.gain" for norm in MEASURED}
    assert {r.value for r in readings(converted.spec)} == {ir.Norm("rms", LAYER_NORM.eps)}
    assert all(torch.equal(value(converted, f"{norm}.gain"), gain.double()) for norm, gain in MEASURED.items())


def test_calibrated_gives_a_gain_where_there_was_none() -> None:
    program = random_program(layer_spec(norm=ir.Norm("layer", 1e-3, gain=False, bias=True)))
    converted = LayerNormToRms("calibrated", MEASURED)(program)
    assert rewritten(program, converted) == {f"{norm}.gain" for norm in MEASURED}


def test_calibrated_leaves_rmsnorms_alone() -> None:
    spec = with_layer(rms_spec(), 1, mlp_norm=LAYER_NORM)
    program = random_program(spec)
    assert rewritten(program, LayerNormToRms("calibrated", MEASURED)(program)) == {"layers.1.mlp_norm.gain"}


def test_calibrated_without_gains_is_refused_and_names_the_norm() -> None:
    program = random_program(layer_spec())
    some = {norm: gain for norm, gain in MEASURED.items() if norm != "layers.1.mlp_norm"}
    for gains, norm in ((None, "layers.0.mixer_norm"), (some, "layers.1.mlp_norm")):
        said = refusal(LayerNormToRms("calibrated", gains), program)
        why = f"{norm}: has no measured gain; give text to calibrate on (--text FILE)"
        assert said == f"layernorm-to-rmsnorm: {why}"


def orion(seed: int) -> Program:
    """A strong-beta Orion whose stream has a mean; weaker matrices, so that no way loses all that can be lost."""
    mixer, mlp = ir.Attention(4, 4, 16, ir.Rope(1000.0, 16)), ir.Mlp(96, "silu")
    spec = layer_spec(mixer, mlp, ir.Norm("layer", 1e-5, bias=True), depth=4, width=64, vocabulary=97)
    program = random_program(spec, seed)
    matrices = [name for name in program.weights if name.startswith("layers.") and name.endswith(".weight")]
    halved = {name: 0.5 * value(program, name) for name in matrices}
    embedding = value(program, "embedding.weight")
    return replaced(program, {**halved, "embedding.weight": embedding + 0.2 * embedding.std()})


@cache
def ways(seed: int) -> dict[str, Program]:
    """A source and what METHODS 1.3 compares with it. Gains are measured on tokens that nothing else sees."""
    source = orion(seed)
    measured = {name: found.gain for name, found in calibrate(source, some_tokens(8, 64, 97, seed=1)).items()}
    exact = FoldNormBias()(LayerNormToRms()(Centre()(source)))
    return {
        "source": source,
        "opm": LayerNormToRms("opm")(source),
        "calibrated": LayerNormToRms("calibrated", measured)(source),
        "drop": DropHeadBias()(exact),
        "block": AffineTail()(exact),
    }


@cache
def losses(seed: int) -> dict[str, float]:
    """KL from the source of each, in nats per token."""
    tokens = some_tokens(4, 48, 97, seed=2)
    wanted = logits(ways(seed)["source"], tokens)
    assert 1 < wanted.std() < 3
    return {name: divergence(wanted, logits(way, tokens)) for name, way in ways(seed).items()}


@pytest.mark.parametrize("seed", range(4))
def test_the_comparison_of_methods_1_3(seed: int) -> None:
    found = losses(seed)
    assert found["opm"] > 3 * found["drop"] > 0.1
    assert abs(found["block"]) < 1e-12


@pytest.mark.parametrize("seed", range(4))
def test_measured_gains_are_better_than_copied_ones(seed: int) -> None:
    """They are the best for each norm alone, and for the whole model if the stream has a mean, as here."""
    found = losses(seed)
    assert found["drop"] < found["calibrated"] < found["opm"]


def test_gains_that_were_not_measured_are_no_better() -> None:
    """Negative control: the same gains in another order."""
    program = ways(0)["calibrated"]
    rolled = {name: value(program, name).roll(1) for name in program.weights if name.endswith("norm.gain")}
    tokens = some_tokens(4, 48, 97, seed=2)
    wanted = logits(ways(0)["source"], tokens)
    assert divergence(wanted, logits(replaced(program, rolled), tokens)) > losses(0)["opm"]
