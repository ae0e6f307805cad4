"""Every pass on models in which a layer has no MLP, one has no mixer, and one has a mixer of another kind."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from kept.compression.calibrate import Calibration
from kept.compression.latent.settings import TruncationSettings
from kept.compression.latent.truncate import truncate
from kept.ir import spec as ir
from kept.ir.promise import Promise
from kept.ir.spec.model import TokenIds
from kept.nn.mixers import MIXERS
from kept.passes import SUMMARIES
from kept.passes.affine_tail import AffineTail, DropHeadBias
from kept.passes.carry_norm_bias import CarryNormBias
from kept.passes.cast_to import CastTo
from kept.passes.centre import Centre
from kept.passes.drop_layers import DropLayers
from kept.passes.drop_pad_token import DropPadToken
from kept.passes.drop_position_scale import DropPositionScale
from kept.passes.drop_window import DropWindow, LimitContext
from kept.passes.expand_blocks import ExpandBlocks
from kept.passes.expand_vocabulary import ExpandVocabulary, Growth
from kept.passes.fill_biases import FillBiases, projections
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.fold_multipliers import FoldMultipliers
from kept.passes.fold_norm_bias import FoldNormBias
from kept.passes.full_rotary import FullRotary
from kept.passes.fuse_projections import FuseProjections
from kept.passes.layer_norm_to_rms import LayerNormToRms
from kept.passes.order_latent_pairs import OrderLatentPairs
from kept.passes.plain_gains import PlainGains
from kept.passes.plain_to_gated import PlainToGated
from kept.passes.repeat_kv_heads import RepeatKeyValueHeads
from kept.passes.replace_branches import BranchChoice, ReplaceBranches
from kept.passes.separate_norms import SeparateNorms
from kept.passes.split_projections import SplitProjections
from kept.passes.to_latent import ToLatent
from kept.passes.truncate_latent import TruncateLatent
from kept.passes.untie_head import UntieHead
from kept.reporting import Silent
from kept.verification.calibration import calibrate
from support.logits import random_program
from support.pass_helpers import (
    GATED,
    MIXER,
    PLAIN,
    RMS_NORM,
    TOKENS,
    TOLERANCE,
    error,
    keeps,
    layer_spec,
    perturbed,
    refusal,
    rms_spec,
)
from support.running_mean import RunningMean, RunningMeanModule
from support.specs import with_layer

if TYPE_CHECKING:
    from kept.ir.program import Program
    from kept.passes.base import Pass


@pytest.fixture(autouse=True)
def another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MIXERS, RunningMean, RunningMeanModule)  # type: ignore[misc]


def with_gaps(spec: ir.Spec) -> ir.Spec:
    """Five layers: whole, without an MLP, without a mixer, with another kind of mixer, whole."""
    whole = spec.layers[0]
    bare = replace(whole, parallel=False, shared_norm=False, mlp_norm=whole.mlp_norm or whole.mixer_norm)
    no_mlp = replace(bare, mlp=None, mlp_norm=None, mlp_post_norm=None)
    no_mixer = replace(bare, mixer=None, mixer_norm=None, mixer_post_norm=None)
    return replace(spec, layers=(whole, no_mlp, no_mixer, replace(bare, mixer=RunningMean(6)), whole))


MULTIPLIED = replace(
    with_gaps(rms_spec(replace(MIXER, scale=0.2), embedding_multiplier=3.0, head=ir.Head(multiplier=0.5))),
    centred=False,
)
SHARED = replace(layer_spec().layers[0], parallel=True, shared_norm=True, mlp_norm=None)

CASES: dict[str, tuple[ir.Spec, tuple[Pass, ...]]] = {
    "everything": (
        with_gaps(
            layer_spec(
                replace(MIXER, fused=True, rope=ir.Rope(100.0, 4, interleaved=True), window=40, o_bias=False),
                replace(PLAIN, down_bias=False),
                head=ir.Head(tied=True),
            )
        ),
        (
            SplitProjections(),
            DropWindow(),
            PlainToGated(),
            FullRotary(),
            UntieHead(),
            Centre(),
            LayerNormToRms(),
            FoldNormBias(),
            AffineTail(),
            FillBiases(projections()),
            FuseProjections(),
            ExpandBlocks(at=(2, 4)),
            DropLayers((2,), zero_output=(2,)),
            LimitContext(TOKENS.shape[1]),
            CastTo("F64"),
        ),
    ),
    "multipliers": (
        replace(MULTIPLIED, layers=tuple(replace(layer, residual_multiplier=0.5) for layer in MULTIPLIED.layers)),
        (FoldMultipliers(),),
    ),
    "gains": (with_gaps(rms_spec(norm=replace(RMS_NORM, offset=1.0))), (PlainGains(),)),
    "normalised head": (with_gaps(rms_spec(head=ir.Head(normalised=True))), (FoldHeadNorm(),)),
    "key-value heads": (
        with_layer(with_gaps(rms_spec()), 4, mixer=replace(MIXER, kv_heads=1)),
        (RepeatKeyValueHeads(),),
    ),
    "position scale": (
        with_layer(with_gaps(rms_spec()), 4, mixer=replace(MIXER, position_scale=ir.PositionScale(0.1, 4096))),
        (DropPositionScale(),),
    ),
    "padding token": (with_gaps(replace(rms_spec(), tokens=TokenIds(pad=1))), (DropPadToken(),)),
    "latent": (with_gaps(rms_spec()), (ToLatent(), OrderLatentPairs(interleaved=True))),
    "shared norms": (with_gaps(replace(layer_spec(), layers=(SHARED,))), (SeparateNorms(),)),
}

OTHERS = {CarryNormBias.name, DropHeadBias.name, ExpandVocabulary.name, ReplaceBranches.name, TruncateLatent.name}
"""Passes with tests of their own, below or in `tests/compression`."""


def test_every_pass_has_a_case() -> None:
    assert {rewrite.name for _, passes in CASES.values() for rewrite in passes} | OTHERS == set(SUMMARIES)


@pytest.mark.parametrize("name", CASES)
def test_the_function_is_kept(name: str) -> None:
    spec, passes = CASES[name]
    program = source = random_program(spec)
    for rewrite in passes:
        program = keeps(rewrite, program)
    assert error(program, source) < TOLERANCE
    broken = perturbed(program, "layers.3.mixer.out.weight" if name != "everything" else "final_norm.gain")
    assert error(broken, source) > 1e3 * TOLERANCE  # negative control


OF_ATTENTION: tuple[Pass, ...] = (
    SplitProjections(),
    DropWindow(),
    FullRotary(),
    FillBiases(projections()),
    RepeatKeyValueHeads(4),
)


@pytest.mark.parametrize("rewrite", OF_ATTENTION, ids=lambda rewrite: rewrite.name)
def test_passes_of_attention_leave_other_mixers_alone(rewrite: Pass) -> None:
    rope = ir.Rope(100.0, 4, interleaved=True)
    mixer = replace(MIXER, fused=isinstance(rewrite, SplitProjections), rope=rope, window=40, o_bias=False)
    program = random_program(with_gaps(rms_spec(mixer)))
    after = rewrite(program)
    assert after.spec.layers[3].mixer == RunningMean(6)
    assert after.spec.layers[0].mixer != program.spec.layers[0].mixer
    own = [name for name in program.weights if name.startswith("layers.3.mixer.")]
    assert own
    assert all(after.weights[name] is program.weights[name] for name in own)


def centred(program: Program) -> Program:
    return LayerNormToRms()(Centre()(program))


def test_carrying_reaches_every_norm() -> None:
    source = random_program(with_gaps(layer_spec()))
    lengths = {name: one.lengths for name, one in calibrate(source, TOKENS).items()}
    after = CarryNormBias(lengths)(centred(source))
    assert not any(branch.norm.bias for _, branch in after.spec.branches())
    assert error(after, source) > 0


def test_the_vocabulary_and_the_bias_of_the_head() -> None:
    program = random_program(with_gaps(rms_spec(head=ir.Head(bias=True))))
    growth = Growth(program.spec.vocabulary, ((1, 2), (3,)))
    grown = ExpandVocabulary("", growth=growth)(program)
    assert grown.spec.vocabulary == program.spec.vocabulary + 2
    assert not DropHeadBias()(program).spec.head.bias


@pytest.mark.parametrize("layer", [0, 1, 3])
def test_a_mixer_is_replaced_beside_gaps(layer: int) -> None:
    """Of attention, of attention without an MLP, of another kind: the result is the model that was asked for."""
    program = random_program(with_gaps(rms_spec()))
    wanted = random_program(with_layer(program.spec, layer, mixer=RunningMean(5)), seed=1)
    own = {name.removeprefix(f"layers.{layer}."): tensor for name, tensor in wanted.weights.items()}
    weights = {name: tensor for name, tensor in own.items() if name.startswith("mixer.")}
    rewrite = ReplaceBranches((BranchChoice(layer, "mixer", RunningMean(5), weights=weights),))
    after = rewrite(program)
    assert after.spec == wanted.spec
    assert rewrite.promise(program) is Promise.LOSSY
    assert error(after, program) > 1e3 * TOLERANCE
    given = {name: tensor for name, tensor in wanted.weights.items() if name.startswith(f"layers.{layer}.mixer.")}
    assert error(after, program.updated(wanted.spec, given)) == 0
    assert error(after, wanted) > 1e3 * TOLERANCE  # negative control: other weights of the same architecture


@pytest.mark.parametrize("gone", ["mixer", "mlp"])
def test_a_tail_needs_a_whole_last_layer(gone: str) -> None:
    spec = rms_spec(mlp=GATED, head=ir.Head(bias=True))
    last = with_layer(replace(spec, centred=True), 2, **{gone: None, f"{gone}_norm": None})
    said = refusal(AffineTail(), random_program(last))
    assert said == "affine-tail: layers.2.mlp: belongs to a layer with one branch; use --final-bias drop"


def test_the_affine_tail_needs_a_dense_mlp() -> None:
    spec = rms_spec(mlp=GATED, head=ir.Head(bias=True))
    said = refusal(AffineTail(), random_program(with_layer(replace(spec, centred=True), 2, mlp=RunningMean(6))))
    assert said == "affine-tail: layers.2.mlp: is running_mean, the tail needs dense; use --final-bias drop"


def test_a_truncation_passes_over_layers_without_attention() -> None:
    """At full size, with the refit: the function stays, and the other layers have their weights."""
    program = random_program(with_gaps(rms_spec(ir.Attention(4, 2, 8, ir.Rope(100.0, 8)))))
    settings = TruncationSettings(sizes=(16, 16))
    rewrite = truncate(Calibration(program, TOKENS), settings, Silent(), {})
    after = rewrite(program)
    assert error(after, program) < 2e-5, "factors are computed in float32"
    kinds = [None if layer.mixer is None else type(layer.mixer) for layer in after.spec.layers]
    assert kinds == [ir.LatentAttention, ir.LatentAttention, None, RunningMean, ir.LatentAttention]
