"""Attention as latent attention: exact for every rotation, and each construction shows if it is left out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch

from kept.families import FAMILIES
from kept.families.deepseek_like import DEEPSEEK_V2, DEEPSEEK_V3
from kept.ir import spec as ir
from kept.passes.cast_to import CastTo
from kept.passes.drop_window import DropWindow
from kept.passes.fold_norm_bias import FoldNormBias
from kept.passes.latent_norm import GAIN, constant_coordinates
from kept.passes.layer_norm_to_rms import LayerNormToRms
from kept.passes.legalize import legalise
from kept.passes.order_latent_pairs import OrderLatentPairs
from kept.passes.repeat_kv_heads import RepeatKeyValueHeads
from kept.passes.rules import Options
from kept.passes.split_projections import SplitProjections
from kept.passes.to_latent import ToLatent
from support.logits import logits, random_program, some_tokens, stock_logits, worst
from support.pass_contract import ExactPassContract, TargetPassContract
from support.pass_helpers import (
    GATED,
    MIXER,
    RMS_NORM,
    TOLERANCE,
    error,
    keeps,
    layer_spec,
    perturbed,
    refusal,
    replaced,
    rms_spec,
    rounded,
    save,
    value,
)
from support.specs import with_layer

if TYPE_CHECKING:
    from pathlib import Path

    from kept.ir.program import Program

ROPE = ir.Rope(100.0, 8)
BARE = ir.Attention(6, 3, 8, ROPE)
BIASED = replace(BARE, q_bias=True, k_bias=True, v_bias=True, o_bias=True)
MLP = replace(GATED, gate_bias=False, up_bias=False, down_bias=False)
LONG = ir.LongRope((1.0, 1.5, 2.0, 2.5), (3.0, 4.0, 5.0, 6.0), 8, 4.0, 1.3)

ATTENTIONS = {
    "grouped": BARE,
    "one key-value head": replace(BARE, kv_heads=1),
    "as many key-value heads as queries": replace(BARE, kv_heads=6),
    "biases": BIASED,
    "key and value biases": replace(BARE, k_bias=True, v_bias=True),
    "interleaved": replace(BARE, rope=replace(ROPE, interleaved=True)),
    "partial": replace(BIASED, rope=ir.Rope(100.0, 4)),
    "partial and interleaved": replace(BARE, rope=ir.Rope(100.0, 6, interleaved=True)),
    "proportional": replace(BARE, rope=ir.Rope(100.0, 4, scaling=ir.Proportional(2.0))),
    "linear": replace(BARE, rope=ir.Rope(100.0, 8, scaling=ir.Linear(2.0))),
    "llama3": replace(BARE, rope=ir.Rope(100.0, 8, scaling=ir.Llama3(4.0, 1.0, 4.0, 8))),
    "yarn": replace(BARE, rope=ir.Rope(100.0, 8, scaling=ir.Yarn(4.0, 8))),
    "longrope": replace(BARE, rope=ir.Rope(100.0, 8, scaling=LONG)),
    "own scale": replace(BARE, scale=0.3),
}


class TestToLatent(ExactPassContract):
    rewrite = ToLatent()
    works_on: ClassVar = {name: rms_spec(one, MLP) for name, one in ATTENTIONS.items()}
    telling = "layers.1.mixer.kv_a.weight"
    refused = (
        (
            rms_spec(replace(BARE, qk_norm=ir.QkNorm(RMS_NORM)), MLP),
            (
                "layers.0.mixer: normalises queries and keys, which latent attention does not; "
                "distil it into a fresh model of the target: kept heal FRESH --teacher MODEL"
            ),
        ),
        (
            rms_spec(replace(BARE, softcap=30.0), MLP),
            (
                "layers.0.mixer: caps its scores, which latent attention does not; "
                "distil it into a fresh model of the target: kept heal FRESH --teacher MODEL"
            ),
        ),
        (
            rms_spec(replace(BARE, rope=None), MLP),
            (
                "layers.0.mixer: has no rotary positions, and latent attention always has; "
                "distil it into a fresh model of the target: kept heal FRESH --teacher MODEL"
            ),
        ),
        (
            rms_spec(replace(BARE, rope=replace(ROPE, scaling=ir.Dynamic(2.0, 8))), MLP),
            (
                "layers.0.mixer.rope: has frequencies that depend on the length (dynamic scaling), which no divisors "
                "can state; set rope_scaling to null for the original length"
            ),
        ),
    )
    prepared_by = (
        (rms_spec(replace(BARE, fused=True), MLP), SplitProjections()),
        (rms_spec(replace(BARE, window=40), MLP), DropWindow()),
        (with_layer(rms_spec(BARE, MLP), 0, mixer=replace(BARE, kv_heads=1)), RepeatKeyValueHeads()),
    )

    def check(self, before: Program, after: Program) -> None:
        """The cache is as large as before, but for the constants."""
        old, new = before.spec.layers[0].mixer, after.spec.layers[0].mixer
        assert isinstance(old, ir.Attention)
        assert isinstance(new, ir.LatentAttention)
        assert new.cached_size == 2 * old.kv_size + len(constant_coordinates(2 * old.kv_size - new.rope_dim))


class TestOrderLatentPairs(TargetPassContract):
    rewrite = OrderLatentPairs(interleaved=True)
    target = DEEPSEEK_V2
    works_on: ClassVar = {
        name: ToLatent()(random_program(rms_spec(ATTENTIONS[name], MLP))).spec
        for name in ("grouped", "biases", "partial")
    }
    served = ToLatent()(random_program(rms_spec(MIXER, MLP))).spec
    refused = ((rms_spec(BARE, MLP), "layers: have no rotated pairs but neighbours; leave this pass out"),)


def test_its_inverse_restores_the_order() -> None:
    program = ToLatent()(random_program(rms_spec(BIASED, MLP)))
    there = keeps(OrderLatentPairs(interleaved=True), program)
    back = OrderLatentPairs(interleaved=False)(there)
    assert back.spec == program.spec
    assert torch.equal(value(back, "layers.0.mixer.q_b.weight"), value(program, "layers.0.mixer.q_b.weight"))


# --------------------------------------------------------------------------------------------------- negative controls


@pytest.fixture(scope="module")
def before() -> Program:
    return random_program(rms_spec(BARE, MLP))


@pytest.fixture(scope="module")
def after(before: Program) -> Program:
    return ToLatent()(before)


def wrong(after: Program, before: Program, **changes: object) -> float:
    """The error of a result with other fields of every latent attention."""
    layers = tuple(replace(one, mixer=replace(one.mixer, **changes)) for one in after.spec.layers)  # type: ignore[type-var]
    return error(replace(after, spec=replace(after.spec, layers=layers)), before)


def mixer_of(program: Program) -> ir.LatentAttention:
    mixer = program.spec.layers[0].mixer
    assert isinstance(mixer, ir.LatentAttention)
    return mixer


def test_a_norm_without_the_constant_coordinates_shows(after: Program, before: Program) -> None:
    names = [f"layers.{i}.mixer.kv_a.bias" for i in range(3)]
    assert error(replaced(after, {name: 0 * value(after, name) for name in names}), before) > 1e3 * TOLERANCE


def test_a_smaller_constant_shows(after: Program, before: Program) -> None:
    """With 2^8 instead of 2^30 the norm is the identity to 1e-5 only."""
    biases = {f"layers.{i}.mixer.kv_a.bias": 2.0**-22 for i in range(3)}
    gains = {f"layers.{i}.mixer.kv_norm.gain": 2.0**-22 for i in range(3)}
    values = {name: by * value(after, name) for name, by in {**biases, **gains}.items()}
    assert 10 * TOLERANCE < error(replaced(after, values), before) < 1e-2


def test_another_scale_shows(after: Program, before: Program) -> None:
    assert wrong(after, before, scale=mixer_of(after).query_dim ** -0.5 * 1.01) > 1e3 * TOLERANCE
    assert wrong(after, before, scale=8**-0.5) > 1e3 * TOLERANCE


def test_pairs_in_the_other_order_show(after: Program, before: Program) -> None:
    rope = mixer_of(after).rope
    assert rope is not None
    assert wrong(after, before, rope=replace(rope, interleaved=True)) > 1e3 * TOLERANCE


def test_frequencies_of_one_long_head_show(after: Program, before: Program) -> None:
    assert wrong(after, before, rope=ir.Rope(100.0, mixer_of(after).rope_dim)) > 1e3 * TOLERANCE


def test_noise_on_any_part_shows(after: Program, before: Program) -> None:
    for name in (name for name in after.weights if name.startswith("layers.0.mixer.")):
        assert error(perturbed(after, name), before) > 1e3 * TOLERANCE, name


# -------------------------------------------------------------------------------------------------------- construction


@pytest.mark.parametrize(("kv_heads", "size"), [(1, 9), (2, 32), (3, 32), (4, 33), (6, 49), (8, 128)])
def test_scores_keep_a_power_of_two_where_queries_at_most_double(kv_heads: int, size: int) -> None:
    """Query sizes for heads of 8: those of 2, 3 and 8 key-value heads are 4^n times 8."""
    spec = rms_spec(replace(BARE, heads=24, kv_heads=kv_heads), MLP)
    assert mixer_of(ToLatent()(random_program(spec))).query_dim == size


@pytest.mark.parametrize("dtype", ["BF16", "F32"])
def test_the_written_weights_are_those_of_the_source_to_the_bit(dtype: str) -> None:
    program = rounded(random_program(rms_spec(BARE, MLP)), dtype)
    after = ToLatent()(program)
    rows = value(after, "layers.0.mixer.kv_a.weight")
    assert torch.equal(rows[: BARE.kv_size], value(program, "layers.0.mixer.v.weight"))
    queries = value(after, "layers.0.mixer.q.weight").view(6, 32, -1)
    assert torch.equal(queries[0, 8 : 8 + 4], 2 * value(program, "layers.0.mixer.q.weight")[:4])
    constants = value(after, "layers.0.mixer.kv_a.bias")
    assert torch.isfinite(constants).all()
    assert 2.0**30 in constants / 5


def test_float16_is_refused() -> None:
    """It ends below the constants. A cast afterwards would make them infinite, which the writer refuses."""
    program = rounded(random_program(rms_spec(BARE, MLP)), "F16")
    said = "weights: are in float16, which ends below the constants that make the norm of a latent the identity; "
    assert refusal(ToLatent(), program) == f"to-latent: {said}choose another dtype (--dtype bfloat16)"
    later = CastTo("F16")(ToLatent()(random_program(rms_spec(BARE, MLP))))
    assert not torch.isfinite(later.weights["layers.0.mixer.kv_a.bias"].value("float64").half()).all()


def test_the_constants_of_every_size_make_the_mean_square_a_power_of_two() -> None:
    for size in (*range(1, 600), 1024, 2048, 4096, 8192, 16384):
        factors = [constant / GAIN for constant in constant_coordinates(size)]
        assert sum(factor**2 for factor in factors) == size + len(factors)
        assert max(factors) <= 256


def test_a_norm_bias_is_folded_into_queries_that_have_a_latent() -> None:
    """The latent of the queries is made before the bias is there."""
    program = random_program(rms_spec(BARE, MLP, replace(RMS_NORM, bias=True)))
    after = ToLatent()(program)
    assert mixer_of(after).q_bias
    folded = FoldNormBias()(after)
    assert error(folded, program) < TOLERANCE


# ------------------------------------------------------------------------------------------------------ stock classes


@pytest.mark.parametrize("target", ["deepseek_v3", "deepseek_v2", "youtu", "minicpm3"])
@pytest.mark.parametrize("name", ["biases", "partial", "longrope", "yarn", "proportional", "own scale"])
def test_stock_classes_compute_the_same(target: str, name: str, tmp_path: Path) -> None:
    spec = rms_spec(replace(ATTENTIONS[name], heads=8, kv_heads=2), MLP, eps_of(target))
    program = random_program(spec)
    plan = legalise(program, FAMILIES[target].violations, Options(dtype="F64"))
    directory, tokens = save(plan.program, FAMILIES[target], tmp_path / "out"), some_tokens(vocabulary=spec.vocabulary)
    assert worst(stock_logits(directory, tokens), logits(program, tokens)) < 1e-5


def eps_of(target: str) -> ir.Norm:
    return ir.Norm("rms", 1e-5 if target == "minicpm3" else 1e-6)


def test_a_layernorm_model_with_biases_becomes_a_deepseek_v2() -> None:
    program = random_program(layer_spec(MIXER))
    plan = legalise(program, DEEPSEEK_V2.violations, Options())
    assert error(plan.program, program) < TOLERANCE
    assert LayerNormToRms.name in {step.rewrite.name for step in plan.steps}
    assert DEEPSEEK_V3.violations(plan.program.spec), "its MLP has no biases"
