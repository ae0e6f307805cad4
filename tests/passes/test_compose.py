"""Passes after passes: whatever runs keeps the function, in either order, or refuses."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kept.errors import Refusal
from kept.ir import spec as ir
from kept.ir.promise import Promise
from kept.ir.spec.model import TokenIds
from kept.passes import PASSES
from kept.passes.affine_tail import AffineTail, DropHeadBias
from kept.passes.cast_to import CastTo
from kept.passes.centre import Centre
from kept.passes.drop_layers import DropLayers
from kept.passes.drop_pad_token import DropPadToken
from kept.passes.drop_position_scale import DropPositionScale
from kept.passes.drop_window import DropWindow, LimitContext
from kept.passes.expand_blocks import ExpandBlocks
from kept.passes.expand_vocabulary import ExpandVocabulary
from kept.passes.fill_biases import FillBiases, projections
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.fold_multipliers import FoldMultipliers
from kept.passes.fold_norm_bias import FoldNormBias
from kept.passes.full_rotary import FullRotary
from kept.passes.fuse_projections import FuseProjections
from kept.passes.layer_norm_to_rms import LayerNormToRms
from kept.passes.map_spec import map_layers
from kept.passes.order_latent_pairs import OrderLatentPairs
from kept.passes.plain_gains import PlainGains
from kept.passes.plain_to_gated import PlainToGated
from kept.passes.repeat_kv_heads import RepeatKeyValueHeads
from kept.passes.replace_branches import ReplaceBranches
from kept.passes.separate_norms import SeparateNorms
from kept.passes.split_projections import SplitProjections
from kept.passes.to_latent import ToLatent
from kept.passes.untie_head import UntieHead
from support.logits import logits, random_program, worst
from support.pass_helpers import (
    GATED,
    LAYER_NORM,
    MIXER,
    PLAIN,
    RMS_NORM,
    TOKENS,
    TOLERANCE,
    error,
    layer_spec,
    of_layer_norms,
    ready_for_tail,
    rms_spec,
    rounded,
    value,
    with_norms,
)
from support.specs import specs, with_layer

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.passes.base import Pass

pytestmark = pytest.mark.slow

EXACT: tuple[Pass, ...] = (
    ToLatent(),
    OrderLatentPairs(interleaved=True),
    AffineTail(),
    CastTo("F64"),
    Centre(),
    DropPadToken(),
    DropPositionScale(),
    DropWindow(),
    ExpandBlocks(at=(1,)),
    FillBiases(projections()),
    FoldHeadNorm(),
    FoldMultipliers(),
    FoldNormBias(),
    FullRotary(),
    FuseProjections(),
    LayerNormToRms(),
    LimitContext(TOKENS.shape[1]),
    PlainGains(),
    PlainToGated(),
    RepeatKeyValueHeads(),
    SeparateNorms(),
    SplitProjections(),
    UntieHead(),
)

BARE = ir.Attention(4, 2, 8, ir.Rope(100.0, 8))
PARTIAL = replace(MIXER, rope=ir.Rope(100.0, 4, interleaved=True))
BIASED = ir.Head(bias=True)
OFFSET = replace(RMS_NORM, offset=1.0)


@cache
def sources() -> dict[str, Program]:
    """Programs on which every pass has something to do somewhere, stored in float32."""
    layers = {
        "orion": replace(layer_spec(BARE, ir.Mlp(24, "silu")), tokens=TokenIds(pad=2)),
        "stablelm": layer_spec(replace(BARE, rope=ir.Rope(100.0, 4)), ir.Mlp(24, "silu")),
        "starcoder2": layer_spec(replace(MIXER, window=40), PLAIN, head=ir.Head(tied=True)),
        "gpt-neox": layer_spec(replace(PARTIAL, fused=True), PLAIN, head=BIASED),
        "phi-3": with_norms(
            rms_spec(replace(PARTIAL, fused=True, window=12), replace(GATED, fused=True), head=ir.Head(tied=True)),
            bias=True,
        ),
        "phi": map_layers(
            layer_spec(PARTIAL, PLAIN), lambda layer: replace(layer, parallel=True, mlp_norm=None, shared_norm=True)
        ),
        "gpt2": layer_spec(replace(MIXER, rope=None, fused=True), PLAIN, positions=40, head=ir.Head(tied=True)),
        "tied": layer_spec(PARTIAL, head=ir.Head(tied=True)),
        "granite": replace(
            with_residual(rms_spec(replace(BARE, scale=0.2)), 0.3),
            embedding_multiplier=5.0,
            head=ir.Head(multiplier=0.2),
        ),
        "gemma-2": replace(
            with_post_norms(rms_spec(replace(BARE, softcap=4.0, scale=0.3), norm=OFFSET), OFFSET),
            embedding_multiplier=4.0,
            head=ir.Head(tied=True, softcap=6.0),
        ),
        "baichuan": rms_spec(
            replace(BARE, fused=True), ir.Mlp(24, "silu"), head=ir.Head(normalised=True, multiplier=9.0)
        ),
        "deci": with_layer(rms_spec(BARE), 1, mixer=replace(BARE, kv_heads=1)),
        "olmo": layer_spec(BARE, ir.Mlp(24, "silu"), norm=ir.Norm("layer", 1e-3, gain=False)),
        "olmo-2": with_post_norms(rms_spec(BARE, norm=ir.NO_NORM), RMS_NORM),
        "mixed": with_layer(layer_spec(MIXER), 1, mixer=PARTIAL, mlp=PLAIN, mixer_norm=replace(LAYER_NORM, bias=False)),
    }
    tails = {
        "tail": rms_spec(PARTIAL, replace(GATED, down_bias=False), head=BIASED),
        "tail, plain": rms_spec(mlp=PLAIN, head=BIASED),
        "tail, fused": rms_spec(replace(MIXER, fused=True), replace(GATED, fused=True), head=BIASED),
        "tail, norm biases": with_norms(rms_spec(BARE, head=BIASED), bias=True),
    }
    made = {name: rounded(random_program(spec), "F32") for name, spec in layers.items()}
    ready = {name: ready_for_tail(spec) for name, spec in tails.items()}
    return {**made, **ready, "centred": Centre()(made["mixed"]), "latent": ToLatent()(made["tied"])}


def with_residual(spec: ir.Spec, multiplier: float) -> ir.Spec:
    """The spec with what each part adds multiplied."""
    return map_layers(spec, lambda layer: replace(layer, residual_multiplier=multiplier))


def with_post_norms(spec: ir.Spec, norm: ir.Norm) -> ir.Spec:
    """The spec with a norm behind each part."""
    return map_layers(spec, lambda layer: replace(layer, mixer_post_norm=norm, mlp_post_norm=norm))


def compose(program: Program, passes: tuple[Pass, ...]) -> Program | None:
    """The program after all passes; None where one refuses."""
    try:
        for rewrite in passes:
            assert rewrite.promise(program) is Promise.EXACT
            program = rewrite(program)
    except Refusal:
        return None
    return program


def furthest(one: Program, other: Program) -> float:
    """The largest difference of two programs' weights."""
    return max(float((value(one, name) - value(other, name)).abs().max()) for name in one.weights)


def test_these_are_all_the_exact_passes() -> None:
    # One is never exact, one only if its layers add zero, one adds logits, and one needs given weights.
    others = {DropHeadBias.name, DropLayers.name, ExpandVocabulary.name, ReplaceBranches.name}
    missing = set(PASSES) - others - {rewrite.name for rewrite in EXACT}
    assert not missing, f"add an instance to EXACT: {missing}"
    assert {rewrite.name for rewrite in EXACT} | others == set(PASSES)


def pairs(program: Program) -> dict[tuple[str, str], Program]:
    """The program after each two passes that run one after the other, by their names."""
    firsts = {first.name: once for first in EXACT if (once := compose(program, (first,))) is not None}
    both = {(name, second.name): compose(once, (second,)) for name, once in firsts.items() for second in EXACT}
    return {names: after for names, after in both.items() if after is not None}


def in_any_order(first: str, second: str) -> bool:
    """Whether the result does not depend on the order.

    The tail's own layer is filled only where it is there already, and a tail has latent attention only if it was there
    before `to-latent`, which makes other weights of a bias or a scale that is there already.
    """
    return {first, second} != {FillBiases.name, AffineTail.name} and ToLatent.name not in {first, second}


@pytest.mark.parametrize("name", sources())
def test_every_pair_keeps_the_function_in_any_order(name: str) -> None:
    """A pass that would break what another one established must say so. Both orders give the same program."""
    program = sources()[name]
    wanted, composed = logits(program, TOKENS), pairs(program)
    for (first, second), after in composed.items():
        other = composed.get((second, first))
        if other is not None and first > second and in_any_order(first, second):
            assert after.spec == other.spec, (first, second)
            assert furthest(after, other) < 1e-12, (first, second)
        else:
            assert worst(logits(after, TOKENS), wanted) < TOLERANCE, (first, second)


def test_every_pass_is_in_pairs() -> None:
    composed = {names for program in sources().values() for names in pairs(program)}
    assert len(composed) > 120
    assert {first for first, _ in composed} == {second for _, second in composed} == {p.name for p in EXACT}
    assert len([pair for pair in composed if pair[::-1] in composed and pair[0] < pair[1]]) > 50


@given(specs(), st.permutations(EXACT), st.integers(0, 3))
def test_any_sequence_on_any_model(spec: ir.Spec, order: list[Pass], seed: int) -> None:
    """Every pass that will run does, in any order; refusals are skipped."""
    program = source = random_program(spec, seed)
    for rewrite in order:
        program = compose(program, (rewrite,)) or program
    assert error(program, source) < TOLERANCE


@given(specs(), st.permutations(EXACT))
def test_any_sequence_on_any_model_of_layer_norms(spec: ir.Spec, order: list[Pass]) -> None:
    """Models on which centring and the passes after it can run."""
    source = program = random_program(of_layer_norms(spec))
    for rewrite in (*order, *order):
        program = compose(program, (rewrite,)) or program
    assert program.spec.final_norm.kind == "rms"
    assert error(program, source) < TOLERANCE


def test_a_broken_pass_in_a_sequence_would_show() -> None:
    """Negative control: centring forced on an RMSNorm model, between two passes that are right."""
    program = random_program(rms_spec(PARTIAL))
    turned = FullRotary()(program)
    assert error(FillBiases(projections())(turned), program) < TOLERANCE
    assert error(FillBiases(projections())(Centre().run(turned)), program) > 1e3 * TOLERANCE


GROWS = ExpandBlocks.name
"""Run again, it adds as many layers again, as it is told to."""


@pytest.mark.parametrize("rewrite", [p for p in EXACT if p.name != GROWS], ids=lambda rewrite: rewrite.name)
def test_running_twice_is_refused_or_changes_nothing(rewrite: Pass) -> None:
    done = 0
    for program in sources().values():
        once = compose(program, (rewrite,))
        if once is None:
            continue
        done += 1
        twice = compose(once, (rewrite,))
        assert twice is None or (twice.spec == once.spec and furthest(twice, once) < 1e-12)
    assert done
