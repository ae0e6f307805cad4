"""The planner's rules: which pass removes which violation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from kept.passes.affine_tail import AffineTail, DropHeadBias
from kept.passes.carry_norm_bias import CarryNormBias
from kept.passes.drop_pad_token import DropPadToken
from kept.passes.drop_position_scale import DropPositionScale
from kept.passes.drop_window import DropWindow
from kept.passes.fill_biases import BIAS, FillBiases
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.fold_multipliers import FoldMultipliers
from kept.passes.fold_norm_bias import FoldNormBias
from kept.passes.full_rotary import FullRotary, RopeForm
from kept.passes.fuse_projections import FuseProjections
from kept.passes.layer_norm_to_rms import LayerNormToRms, NormMode
from kept.passes.order_latent_pairs import OrderLatentPairs
from kept.passes.plain_gains import PlainGains
from kept.passes.plain_to_gated import PlainToGated
from kept.passes.repeat_kv_heads import RepeatKeyValueHeads
from kept.passes.separate_norms import SeparateNorms
from kept.passes.split_projections import SplitProjections
from kept.passes.to_latent import ToLatent
from kept.passes.untie_head import UntieHead
from kept.passes.violation_kind import KEY_VALUE_HEADS, ViolationKind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from kept.ir.facts import Violation
    from kept.passes.base import Pass

    Gains = Mapping[str, torch.Tensor] | None
    Maker = Callable[[Sequence[Violation], "Options", Gains], Pass | None]
    Rule = tuple[ViolationKind, Maker]


@dataclass(frozen=True)
class Options:
    """The choices of the user in a conversion. `latent` makes attention latent; None: exactly, by `ToLatent`."""

    norm: NormMode = "exact"
    final_bias: Literal["block", "drop"] = "block"
    rope: RopeForm = "llama3"
    context: int | None = None
    dtype: str | None = None
    latent: Pass | None = None


def rules_for(violations: Sequence[Violation]) -> list[Rule]:
    """Return the rules for any of the violations, in the order in which their passes run."""
    return [rule for rule in RULES if any(rule[0].fits(violation) for violation in violations)]


def _norm(_: Sequence[Violation], options: Options, gains: Gains) -> Pass:
    if options.norm == "carried":
        return LayerNormToRms()
    return LayerNormToRms(options.norm, gains if options.norm == "calibrated" else None)


def _norm_bias(_: Sequence[Violation], options: Options, gains: Gains) -> Pass:
    return CarryNormBias(gains or {}) if options.norm == "carried" else FoldNormBias()


def _final_bias(_: Sequence[Violation], options: Options, __: Gains) -> Pass:
    return AffineTail() if options.final_bias == "block" else DropHeadBias()


def _fill(violations: Sequence[Violation], _: Options, __: Gains) -> Pass:
    flags = {v.path for v in violations if MISSING_BIAS.fits(v)}
    return FillBiases(tuple(sorted(_projection(path) for path in flags)))


def _projection(path: str) -> str:
    """Return kind and projection of a bias's fact: `attention.q` of `layers.*.mixer.attention.q_bias`."""
    return path.removesuffix(BIAS).split(".", 3)[3]


def _repeat(violations: Sequence[Violation], _: Options, __: Gains) -> Pass | None:
    found = next(v for v in violations if v.path == KEY_VALUE_HEADS)
    if found.layer is not None:
        return RepeatKeyValueHeads()
    return RepeatKeyValueHeads(found.needs) if found.needs % found.found == 0 else None


def _rotary(_: Sequence[Violation], options: Options, __: Gains) -> Pass:
    return FullRotary(options.rope)


def _divisors(violations: Sequence[Violation], options: Options, __: Gains) -> Pass | None:
    """Make full rotations if lists of divisors differ because only a part of each head is rotated."""
    return FullRotary(options.rope) if any(v.path == ROTATED for v in violations) else None


NORMS = ("layers.*.mixer_norm", "layers.*.mlp_norm", "final_norm")
MISSING_BIAS = ViolationKind("layers.*.*.*_bias", needs=True)
LATENT_PAIRS = "layers.*.mixer.latent.rope.interleaved"
ROTATED = "layers.*.mixer.attention.rope.dims"

RULES: tuple[Rule, ...] = (
    (ViolationKind("layers.*.mixer", "attention", "latent"), lambda _, options, __: options.latent or ToLatent()),
    (ViolationKind("layers.*.mixer.attention.fused", found=True), lambda *_: SplitProjections()),
    (ViolationKind("layers.*.mlp.dense.fused", found=True), lambda *_: SplitProjections()),
    (ViolationKind(KEY_VALUE_HEADS), _repeat),
    (ViolationKind("layers.*.shared_norm", found=True), lambda *_: SeparateNorms()),
    (ViolationKind("layers.*.mlp_norm", found=None), lambda *_: SeparateNorms()),
    (ViolationKind("layers.*.mixer.attention.window", needs=None), lambda *_: DropWindow()),
    (ViolationKind("layers.*.mixer.attention.position_scale", needs=None), lambda *_: DropPositionScale()),
    (ViolationKind("layers.*.mlp.dense.gated", found=False), lambda *_: PlainToGated()),
    (ViolationKind(ROTATED), _rotary),
    (ViolationKind("layers.*.mixer.attention.rope.scaling.*_factor"), _divisors),
    (ViolationKind("layers.*.mixer.attention.rope.interleaved", found=True), _rotary),
    (ViolationKind("head.normalised", found=True), lambda *_: FoldHeadNorm()),
    (ViolationKind("*multiplier", needs=1.0), lambda *_: FoldMultipliers()),
    (ViolationKind("layers.*.mixer.attention.scale", needs=None), lambda *_: FoldMultipliers()),
    (ViolationKind("*norm.gain", needs=True), lambda *_: PlainGains()),
    (ViolationKind("*norm.offset", needs=0.0), lambda *_: PlainGains()),
    *((ViolationKind(f"{norm}.kind", "layer", "rms"), _norm) for norm in NORMS),
    *((ViolationKind(f"{norm}.bias", found=True), _norm_bias) for norm in NORMS),
    (ViolationKind("head.bias", found=True), _final_bias),
    (ViolationKind("head.tied", found=True), lambda *_: UntieHead()),
    (ViolationKind(LATENT_PAIRS, needs=True), lambda *_: OrderLatentPairs(interleaved=True)),
    (ViolationKind(LATENT_PAIRS, needs=False), lambda *_: OrderLatentPairs(interleaved=False)),
    (ViolationKind("tokens.pad", needs=None), lambda *_: DropPadToken()),
    (MISSING_BIAS, _fill),
    (ViolationKind("layers.*.mixer.attention.fused", needs=True), lambda *_: FuseProjections()),
)
"""Violations with the pass that removes each, in the order in which passes run."""
