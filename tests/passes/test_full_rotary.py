"""Partial and interleaved rotation as the full, half-split one."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest
import torch
from hypothesis import assume, given

from kept.families.llama import LLAMA
from kept.ir import spec as ir
from kept.nn.rope import inverse_frequencies
from kept.passes.full_rotary import ROPE_FORMS, UNROTATED, FullRotary, RopeForm
from kept.passes.legalize import legalise
from kept.passes.rules import Options
from kept.passes.split_projections import SplitProjections
from support.logits import program_of, random_program, some_tokens, stock_logits, worst
from support.models import write_checkpoint
from support.pass_contract import TargetPassContract
from support.pass_helpers import (
    MIXER,
    TOLERANCE,
    error,
    keeps,
    layer_spec,
    perturbed,
    refusal,
    replaced,
    rewritten,
    rms_spec,
    save,
    unread,
    value,
)
from support.specs import attention_of, rope_of, specs, with_layer

if TYPE_CHECKING:
    from pathlib import Path

PARTIAL = ir.Rope(100.0, 4)
INTERLEAVED = ir.Rope(100.0, 8, interleaved=True)
BOTH = ir.Rope(100.0, 4, interleaved=True)

ROPES = {
    "partial": PARTIAL,
    "one pair": ir.Rope(100.0, 2),
    "all but one pair": ir.Rope(100.0, 6),
    "interleaved": INTERLEAVED,
    "partial and interleaved": BOTH,
    "partial, linear": replace(PARTIAL, scaling=ir.Linear(2.0)),
    "partial and interleaved, linear": replace(BOTH, scaling=ir.Linear(2.0)),
    "interleaved, linear": replace(INTERLEAVED, scaling=ir.Linear(2.0)),
    "interleaved, llama3": replace(INTERLEAVED, scaling=ir.Llama3(4.0, 1.0, 4.0, 8)),
    "interleaved, yarn": replace(INTERLEAVED, scaling=ir.Yarn(4.0, 8)),
    "interleaved, dynamic": replace(INTERLEAVED, scaling=ir.Dynamic(2.0, 8)),
    "interleaved, longrope": replace(INTERLEAVED, scaling=ir.LongRope((1.0,) * 4, (1.0, 2.0, 3.0, 4.0), 8, 2.0)),
    "interleaved, proportional": replace(BOTH, scaling=ir.Proportional(2.0)),
}

QK_NORMS = {
    "none": None,
    "shared": ir.QkNorm(ir.Norm("rms", 1e-3), "shared"),
    "own": ir.QkNorm(ir.Norm("layer", 1e-3, bias=True), "own"),
    "full": ir.QkNorm(ir.Norm("layer", 1e-3, bias=True), "full"),
}

TURNED = ("q.weight", "q.bias", "k.weight", "k.bias")


def rotating(rope: ir.Rope | None, positions: int | None = None, **changes: Any) -> ir.Spec:
    """Grouped heads with biases and this rotation."""
    return layer_spec(replace(MIXER, rope=rope, **changes), positions=positions)


class TestFullRotary(TargetPassContract):
    rewrite = FullRotary()
    works_on: ClassVar = {"partial": rotating(PARTIAL), "interleaved": rotating(INTERLEAVED), "both": rotating(BOTH)}
    served = rms_spec(replace(MIXER, rope=BOTH))
    refused = tuple(
        (
            layer_spec(replace(MIXER, rope=rope), positions=40),
            "layers: rotate whole heads in halves; leave this pass out",
        )
        for rope in (None, ir.Rope(100.0, 8), ir.Rope(100.0, 4, scaling=ir.Proportional()))
    )
    prepared_by = ((rotating(BOTH, fused=True), SplitProjections()),)


@pytest.mark.parametrize("form", ROPE_FORMS)
@pytest.mark.parametrize("qk_norm", QK_NORMS)
@pytest.mark.parametrize("name", ROPES)
def test_the_function_is_kept(name: str, qk_norm: str, form: RopeForm) -> None:
    program = random_program(rotating(ROPES[name], qk_norm=QK_NORMS[qk_norm]))
    full = keeps(FullRotary(form), program)
    normed = {n.removeprefix("layers.0.mixer.") for n in full.weights if n.startswith("layers.0") and "_norm." in n}
    normed = {n for n in normed if n.startswith(("q_norm", "k_norm"))}
    assert rewritten(program, full) == {f"layers.{i}.mixer.{n}" for i in range(3) for n in (*TURNED, *normed)}


@given(specs())
def test_any_model_that_it_accepts(spec: ir.Spec) -> None:
    program = random_program(spec)
    obstacle = FullRotary().requires(program)
    if obstacle is not None and obstacle.fix is not None:
        program = SplitProjections()(program)
        obstacle = FullRotary().requires(program)
    assume(obstacle is None)
    keeps(FullRotary(), program)


def test_heads_of_one_and_of_many_groups() -> None:
    for heads, kv_heads in ((1, 1), (4, 4), (6, 2), (6, 1)):
        keeps(FullRotary(), random_program(rotating(BOTH, heads=heads, kv_heads=kv_heads)))


def test_layers_that_rotate_whole_heads_in_halves_are_unchanged() -> None:
    program = random_program(with_layer(rms_spec(), 1, mixer=replace(MIXER, rope=PARTIAL)))
    assert {name.split(".")[1] for name in rewritten(program, keeps(FullRotary(), program))} == {"1"}


def test_the_pairs_that_turn_keep_their_frequencies() -> None:
    full = FullRotary()(unread(rotating(replace(PARTIAL, scaling=ir.Linear(2.0)))))
    rope = rope_of(full.spec.layers[0])
    assert rope == ir.Rope(100.0**2, 4, scaling=ir.Proportional(2.0))
    found, _ = inverse_frequencies(rope, 8, 1)
    wanted = torch.tensor([0.5, 0.05, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-15, atol=0)


@pytest.mark.parametrize("theta", [1.5, 100.0, 10_000.0, 5e6])
@pytest.mark.parametrize(("dims", "head"), [(2, 8), (6, 8), (32, 128), (64, 80), (126, 128)])
def test_a_threshold_stops_the_pairs_behind(theta: float, dims: int, head: int) -> None:
    """Also as runtimes compute it: wavelengths in float32, each divided by nothing or by the whole factor."""
    rope = rope_of(FullRotary()(unread(rotating(ir.Rope(theta, dims), head_dim=head))).spec.layers[0])
    assert isinstance(rope.scaling, ir.Llama3)
    found, temperature = inverse_frequencies(rope, head, 1)
    wanted, _ = inverse_frequencies(ir.Rope(theta, dims), head, 1)
    turning = dims // 2
    torch.testing.assert_close(found[:turning], wanted, rtol=1e-13, atol=0)
    assert (temperature, float(found[turning:].max()) < 1e-29) == (1.0, True)
    plain = (1 / rope.theta ** (torch.arange(0, head, 2, dtype=torch.int64).float() / head)).float()
    wavelengths, original = 2 * math.pi / plain, rope.scaling.original_max_position_embeddings
    assert bool((wavelengths[:turning] < original / rope.scaling.high_freq_factor).all())
    assert bool((wavelengths[turning:] > original / rope.scaling.low_freq_factor).all())


def test_what_a_threshold_cannot_say_is_proportional() -> None:
    for rope in (replace(PARTIAL, scaling=ir.Linear(2.0)), ir.Rope(1.0, 4)):
        full = rope_of(FullRotary("llama3")(unread(rotating(rope))).spec.layers[0])
        assert isinstance(full.scaling, ir.Proportional)


def changed_rope(spec: ir.Spec, **changes: Any) -> ir.Spec:
    mixers = [replace(attention_of(layer), rope=replace(rope_of(layer), **changes)) for layer in spec.layers]
    layers = zip(spec.layers, mixers, strict=True)
    return replace(spec, layers=tuple(replace(layer, mixer=mixer) for layer, mixer in layers))


@pytest.mark.parametrize("changes", [{"theta": 100.0}, {"scaling": None, "theta": 100.0}, {"interleaved": True}])
def test_the_rotation_must_be_restated(changes: dict[str, object]) -> None:
    """Negative control: theta left as it was, the old rotation, or pairs left as they were, on permuted heads."""
    program = random_program(rotating(BOTH))
    full = FullRotary()(program)
    wrong = replace(full, spec=changed_rope(full.spec, **changes))
    assert error(wrong, program) > 1e3 * TOLERANCE


@pytest.mark.parametrize("part", [*TURNED, "q_norm.gain", "q_norm.bias", "k_norm.gain", "k_norm.bias"])
@pytest.mark.parametrize("rope", [BOTH, INTERLEAVED, PARTIAL])
def test_everything_of_a_head_is_permuted_alike(part: str, rope: ir.Rope) -> None:
    """Negative control: one tensor of one layer left in the old order."""
    program = random_program(rotating(rope, qk_norm=QK_NORMS["own"]))
    slot = f"layers.1.mixer.{part}"
    forgotten = replaced(FullRotary()(program), {slot: value(program, slot)})
    assert error(forgotten, program) > 1e3 * TOLERANCE


@pytest.mark.parametrize(
    ("scaling", "kind"),
    [
        (ir.Yarn(4.0, 8), "yarn"),
        (ir.Llama3(4.0, 1.0, 4.0, 8), "llama3"),
        (ir.Dynamic(2.0, 8), "dynamic"),
    ],
)
def test_partial_rotation_with_another_scaling_is_refused(scaling: ir.Scaling, kind: str) -> None:
    spec = with_layer(rms_spec(), 1, mixer=replace(MIXER, rope=replace(PARTIAL, scaling=scaling)))
    why = f"layers.1.mixer.rope: rotates 4 of 8 dimensions with {kind} scaling; no stock rope type says both"
    assert refusal(FullRotary(), unread(spec)) == f"full-rotary: {why}"


@pytest.mark.parametrize("rope", [PARTIAL, BOTH])
@pytest.mark.parametrize("original", [8, 12, 13])
@pytest.mark.parametrize("factor", [None, 1.0, 1.5])
def test_partial_longrope_keeps_the_function(rope: ir.Rope, original: int, factor: float | None) -> None:
    """Sequences of 12 are long, or just short, and a temperature would reach what stands still."""
    scaling = ir.LongRope((1.0, 1.5), (2.0, 3.0), original, 4.0, factor)
    full = keeps(FullRotary(), random_program(rotating(replace(rope, scaling=scaling))))
    filled = replace(
        scaling, short_factor=(1.0, 1.5, UNROTATED, UNROTATED), long_factor=(2.0, 3.0, UNROTATED, UNROTATED)
    )
    assert attention_of(full.spec.layers[0]).rope == ir.Rope(100.0**2, 8, scaling=filled)


@pytest.mark.parametrize("temperature", [1.4, 1.6])
def test_the_temperature_of_what_stands_still_is_made_up_for(temperature: float) -> None:
    """Negative control: another temperature than the one that the queries' rows were divided by."""
    scaling = ir.LongRope((1.0, 1.5), (2.0, 3.0), 8, 4.0, 1.5)
    program = random_program(rotating(replace(PARTIAL, scaling=scaling)))
    full = FullRotary()(program)
    filled = ir.LongRope((1.0, 1.5, UNROTATED, UNROTATED), (2.0, 3.0, UNROTATED, UNROTATED), 8, 4.0, temperature)
    wrong = replace(full, spec=changed_rope(full.spec, scaling=filled))
    assert error(wrong, program) > 1e3 * TOLERANCE


def test_partial_longrope_with_normalised_queries_is_refused() -> None:
    scaling = ir.LongRope((1.0, 1.5), (2.0, 3.0), 8, 4.0)
    spec = rotating(replace(PARTIAL, scaling=scaling), qk_norm=QK_NORMS["shared"])
    assert "layers.0.mixer: normalises queries" in refusal(FullRotary(), unread(spec))


@pytest.mark.parametrize(("theta", "head"), [(1e10, 8), (1e6, 128), (1e300, 4)])
def test_a_theta_beyond_float32_is_refused(theta: float, head: int) -> None:
    """Also one beyond float64, which must not fail on the way."""
    spec = rotating(ir.Rope(theta, 2), head_dim=head)
    why = f"layers.0.mixer.rope: needs theta {theta:g}^({head}/2), beyond float32; no stock rope type can say it"
    assert refusal(FullRotary(), unread(spec)) == f"full-rotary: {why}"


@pytest.mark.parametrize("form", ROPE_FORMS)
@pytest.mark.parametrize("scaling", [None, {"rope_type": "linear", "factor": 2.0}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stablelm_as_a_stock_llama(
    tmp_path: Path, dtype: torch.dtype, scaling: dict[str, object] | None, form: RopeForm
) -> None:
    """Two classes of transformers, before and after; `dtype` is that of the weights on disk and of both runs."""
    rope = {"rope_theta": 1000.0, "partial_rotary_factor": 0.25, "rope_type": "default", **(scaling or {})}
    source = write_checkpoint(tmp_path / "source", "stablelm", dtype=dtype, rope_parameters=rope)
    planned = legalise(program_of(source), LLAMA.violations, Options(rope=form)).program
    tokens = some_tokens()
    wanted = stock_logits(source, tokens, dtype)
    assert worst(stock_logits(save(planned, LLAMA, tmp_path / "out"), tokens, dtype), wanted) < 1e-5
    wrong = save(perturbed(planned, "layers.1.mixer.k.weight"), LLAMA, tmp_path / "wrong")
    assert worst(stock_logits(wrong, tokens, dtype), wanted) > 1e-4
