"""A bias on the logits in a target whose head has none: the affine tail, and leaving it out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kept.ir import spec as ir
from kept.ir.promise import Promise
from kept.nn import Model
from kept.passes.affine_tail import AffineTail, DropHeadBias
from kept.passes.plain_to_gated import PlainToGated
from kept.passes.split_projections import SplitProjections
from support.logits import logits, random_program, some_tokens, worst
from support.pass_contract import PassContract, TargetPassContract
from support.pass_helpers import (
    GATED,
    LAYER_NORM,
    MIXER,
    PLAIN,
    RMS_NORM,
    TOLERANCE,
    divergence,
    error,
    keeps,
    ready_for_tail,
    refusal,
    replaced,
    rewritten,
    rms_spec,
    rounded,
    unread,
    value,
)
from support.specs import ACTIVATIONS, VOCABULARY, with_layer, with_mixer, with_mlp

if TYPE_CHECKING:
    from kept.ir.program import Program

BIASED = ir.Head(bias=True)
READY = rms_spec(head=BIASED)
CENTRED = replace(READY, centred=True)
LONG = some_tokens(4, 48, VOCABULARY)


def with_offset(program: Program, std: float) -> Program:
    """The program with a bias on the logits of this standard deviation."""
    bias = value(program, "head.bias")
    return replaced(program, {"head.bias": (bias - bias.mean()) / bias.std() * std})


class TestAffineTail(TargetPassContract):
    rewrite = AffineTail()
    works_on: ClassVar = {"as wide": CENTRED, "just wide enough": with_mlp(CENTRED, size=15)}
    served = CENTRED
    refused = (
        (rms_spec(centred=True), "head: has no bias; leave this pass out"),
        (READY, "final_norm: is not an RMSNorm of a centred stream; use --final-bias drop"),
        (
            replace(CENTRED, final_norm=LAYER_NORM),
            "final_norm: is not an RMSNorm of a centred stream; use --final-bias drop",
        ),
        (
            replace(CENTRED, final_norm=replace(RMS_NORM, bias=True)),
            "final_norm: has a bias or an offset of its own; fold it first",
        ),
        (
            replace(CENTRED, final_norm=replace(RMS_NORM, offset=1.0)),
            "final_norm: has a bias or an offset of its own; fold it first",
        ),
        (
            replace(CENTRED, head=ir.Head(tied=True, bias=True)),
            "head: is tied to the embedding; untie it first (pass untie-head)",
        ),
        (with_layer(CENTRED, 2, parallel=True), "layers.2.mlp: runs beside the mixer; use --final-bias drop"),
        (
            with_layer(CENTRED, 2, mlp=replace(GATED, size=14)),
            "layers.2.mlp: has 14 channels, the tail needs 15; use --final-bias drop",
        ),
    )
    prepared_by = (
        (with_mixer(CENTRED, fused=True), SplitProjections()),
        (with_mlp(CENTRED, fused=True), SplitProjections()),
        (rms_spec(mlp=PLAIN, head=BIASED, centred=True), PlainToGated()),
    )


class TestDropHeadBias(PassContract):
    rewrite = DropHeadBias()
    works_on: ClassVar = {"untied": READY}
    refused = ((rms_spec(), "head: has no bias; leave this pass out"),)


@pytest.mark.parametrize("offset", [0.0, 0.3, 3.0])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_function_is_kept(activation: ir.Activation, offset: float) -> None:
    program = with_offset(ready_for_tail(with_mlp(READY, activation=activation)), offset)
    tailed = keeps(AffineTail(), program)
    new = {name for name in tailed.weights if name.startswith("layers.3.")}
    assert rewritten(program, tailed) == new | {"final_norm.gain", "head.weight"}
    assert "head.bias" not in tailed.weights
    assert not tailed.spec.centred


UNBIASED = ir.Attention(4, 2, 8, ir.Rope(100.0, 8))


@st.composite
def ready(draw: st.DrawFn) -> ir.Spec:
    """Any decoder that can have a tail."""
    width = draw(st.sampled_from([4, 10, 16]))
    up_bias, down_bias = draw(st.booleans()), draw(st.booleans())
    size = width + draw(st.sampled_from([-1, 0, 5]))
    mlp = ir.Mlp(size, draw(st.sampled_from(ACTIVATIONS)), up_bias=up_bias, down_bias=down_bias)
    scope = draw(st.sampled_from([None, "own", "shared", "full"]))
    qk_norm = None if scope is None else ir.QkNorm(ir.Norm("layer", 1e-5, bias=draw(st.booleans())), scope)  # type: ignore[arg-type]
    window = draw(st.sampled_from([None, 3]))
    mixer = replace(draw(st.sampled_from([MIXER, UNBIASED])), qk_norm=qk_norm, window=window)
    norm = ir.Norm("rms", draw(st.sampled_from([1e-6, 1e-3])), gain=draw(st.booleans()))
    layer = ir.Layer(mixer, mlp, norm, norm)
    return ir.Spec(VOCABULARY, width, 40, (layer,) * draw(st.integers(1, 2)), norm, BIASED)


@given(ready(), st.sampled_from([0.0, 0.3, 3.0]), st.integers(0, 3))
def test_any_program_that_is_ready(spec: ir.Spec, offset: float, seed: int) -> None:
    keeps(AffineTail(), with_offset(ready_for_tail(spec, seed), offset))


@pytest.mark.parametrize(
    "part",
    ["mlp.down.bias", "mlp.down.weight", "mlp.gate.bias", "mlp.up.weight", "mlp_norm.gain"],
)
def test_each_part_of_the_tail_counts(part: str) -> None:
    """Negative control; `mlp.down.bias` is the anchor."""
    program = ready_for_tail(READY)
    tailed = AffineTail()(program)
    slot = f"layers.3.{part}"
    assert error(tailed, program) < TOLERANCE
    assert error(replaced(tailed, {slot: torch.zeros_like(value(tailed, slot))}), program) > 1e-2


@pytest.mark.parametrize("column", [0, 7, -1])
def test_each_column_of_the_head_counts(column: int) -> None:
    """Negative control; the last column holds the bias."""
    program = ready_for_tail(READY)
    tailed = AffineTail()(program)
    head = value(tailed, "head.weight")
    head[:, column] = 0
    assert error(replaced(tailed, {"head.weight": head}), program) > 1e-2


def test_a_stream_with_a_mean_would_change() -> None:
    """Negative control, forced past the refusal: the reflection has no free dimension."""
    program = random_program(READY)
    assert error(AffineTail().run(program), program) > 1e-3


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("offset", [0.3, 3.0])
def test_float32_stays_at_the_noise_of_float32(activation: ir.Activation, offset: float) -> None:
    """Weights and activations in float32: as near to the float64 source as the source's own float32 run."""
    program = with_offset(ready_for_tail(with_mlp(READY, activation=activation)), offset)
    wanted = logits(program, LONG)
    noise = worst(logits(program, LONG, torch.float32), wanted)
    assert 1e-7 < noise < 1e-4
    assert worst(logits(AffineTail()(program), LONG, torch.float32), wanted) < 1.5 * noise


@torch.inference_mode()
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("offset", [0.0, 0.3, 3.0])
def test_bfloat16_stays_at_the_noise_of_bfloat16(activation: ir.Activation, offset: float) -> None:
    """Weights really rounded, and run in bfloat16: KL from the float64 source, against that of the source itself."""
    program = rounded(with_offset(ready_for_tail(with_mlp(READY, activation=activation)), offset), "BF16")
    tailed = AffineTail()(program)
    assert {tensor.dtype for tensor in tailed.weights.values()} == {"BF16"}
    wanted = logits(program, LONG)
    noise = divergence(wanted, Model.load(program)(LONG))
    assert 1e-5 < noise < 1e-2
    assert divergence(wanted, Model.load(tailed)(LONG)) < 2.25 * noise


def test_the_price_is_one_layer() -> None:
    program = unread(replace(READY, centred=True))
    tailed = AffineTail()(program)
    layer = sum(tensor.nbytes for name, tensor in program.weights.items() if name.startswith("layers.0."))
    assert tailed.spec.depth == program.spec.depth + 1
    assert tailed.nbytes - program.nbytes == layer - 4 * VOCABULARY


def test_the_tail_has_the_widths_of_the_last_layer() -> None:
    """So that the layers of a target whose config has one size for all stay alike."""
    tailed = AffineTail()(ready_for_tail(READY)).spec
    assert tailed.layers[3] == tailed.layers[2]


def test_float16_is_refused_and_would_overflow() -> None:
    program = rounded(ready_for_tail(READY), "F16")
    said = refusal(AffineTail(), program)
    assert (
        said
        == "affine-tail: dtype: float16 overflows in the tail; use --dtype bfloat16 or float32, or --final-bias drop"
    )
    assert AffineTail().run(program).weights["layers.3.mlp.down.bias"].read().isinf().any()


def test_dropping_the_bias_is_approximate() -> None:
    program = ready_for_tail(READY)
    dropped = DropHeadBias()(program)
    assert DropHeadBias().promise(program) is Promise.APPROXIMATE
    assert not rewritten(program, dropped)
    assert set(program.weights) - set(dropped.weights) == {"head.bias"}
    offset = logits(program, LONG) - logits(dropped, LONG)
    torch.testing.assert_close(offset, value(program, "head.bias").expand_as(offset), rtol=0, atol=TOLERANCE)
