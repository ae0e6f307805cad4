"""The planner: what a target cannot express, and the passes that make it expressible.

Each violation names the pass that removes it; a pass that is in the way of another is run first. A violation that
no pass removes is a refusal with its reason and the way out.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Any, Literal, cast

from kept.errors import Refusal
from kept.ir.slots import readings
from kept.passes.affine_tail import AffineTail, DropHeadBias
from kept.passes.carry_norm_bias import CarryNormBias
from kept.passes.cast_to import CastTo
from kept.passes.drop_window import DropWindow, LimitContext
from kept.passes.fill_biases import FillBiases
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.fold_multipliers import FoldMultipliers
from kept.passes.fold_norm_bias import FoldNormBias
from kept.passes.full_rotary import FullRotary, RopeForm
from kept.passes.fuse_projections import FuseProjections
from kept.passes.layer_norm_to_rms import LayerNormToRms, Way
from kept.passes.plain_gains import PlainGains
from kept.passes.plain_to_gated import PlainToGated
from kept.passes.plan import PassStep, Plan
from kept.passes.repeat_kv_heads import RepeatKeyValueHeads
from kept.passes.separate_norms import SeparateNorms
from kept.passes.split_projections import SplitProjections
from kept.passes.untie_head import UntieHead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import torch

    from kept.ir.facts import Violation
    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.passes.base import Pass

    Violations = Callable[[Spec], list[Violation]]
    Gains = Mapping[str, torch.Tensor] | None
    Maker = Callable[[Sequence[Violation], "Options", Gains], Pass | None]
    Rule = tuple["ViolationKind", Maker]

MOST_STEPS = 64
"""More passes than any plan has: a planner that goes round in circles stops here."""


@dataclass(frozen=True)
class Options:
    """What the user may choose about a conversion."""

    norm: Way = "exact"
    final_bias: Literal["block", "drop"] = "block"
    rope: RopeForm = "llama3"
    context: int | None = None
    dtype: str | None = None


def legalise(program: Program, violations: Violations, options: Options, gains: Gains = None) -> Plan:
    """The plan that makes a program expressible for the target whose `violations` are given.

    `gains` are what the norms' way was measured with, the calibrated gains or the lengths of what a norm reads; a plan
    that is only printed may leave them out. Raises Refusal naming
    every violation that no pass removes, or the pass that cannot run, each with its reason and way out: another option
    where one makes a plan.
    """
    try:
        return _plan(program, violations, options, gains)
    except Refusal as refusal:
        said = str(refusal)
        other = next(
            (way for change, way in OTHER_WAYS if _works(program, violations, replace(options, **change))), None
        )
        if other is None or not said.endswith(WAY_OUT):
            raise
        raise Refusal(f"{said.removesuffix(WAY_OUT)}{other}") from None


@dataclass(frozen=True)
class _Unmeasured:
    """Stands for what is measured, in a plan that is only printed."""

    shape: tuple[int, ...]


def stand_ins(spec: Spec) -> dict[str, torch.Tensor]:
    """Measurements of the right shape and no values, so that such a plan needs no torch."""
    measured = cast("torch.Tensor", _Unmeasured((spec.width,)))
    return {reading.norm: measured for reading in readings(spec) if reading.value.kind == "layer"}


def _works(program: Program, violations: Violations, options: Options) -> bool:
    try:
        _plan(program, violations, options, stand_ins(program.spec))
    except Refusal:
        return False
    return True


def _plan(program: Program, violations: Violations, options: Options, gains: Gains) -> Plan:
    steps: list[PassStep] = []
    if options.context is not None and options.context != program.spec.context:
        program = _apply(LimitContext(options.context), program, steps)
    if options.dtype is not None and any(t.dtype != options.dtype for t in program.weights.values()):
        program = _apply(CastTo(options.dtype), program, steps)
    while found := violations(program.spec):
        _refuse_unfixable(found, options, gains)
        rewrite = next(made for _, make in _rules_for(found) if (made := make(found, options, gains)) is not None)
        program = _apply(rewrite, program, steps)
    return Plan(tuple(steps), program)


def run_passes(program: Program, passes: Sequence[Pass]) -> Plan:
    """The given passes, in order and with nothing added."""
    steps: list[PassStep] = []
    for rewrite in passes:
        program = _step(rewrite, program, steps)
    return Plan(tuple(steps), program)


def _apply(rewrite: Pass, program: Program, steps: list[PassStep]) -> Program:
    """Run what the pass needs first, then the pass."""
    while (obstacle := rewrite.requires(program)) is not None and obstacle.fix is not None:
        program = _apply(obstacle.fix, program, steps)
    return _step(rewrite, program, steps)


def _step(rewrite: Pass, program: Program, steps: list[PassStep]) -> Program:
    assert len(steps) < MOST_STEPS, [step.rewrite.name for step in steps]
    after = rewrite(program)
    origins, layers = rewrite.origins(program), after.spec.depth - program.spec.depth
    assert len(origins) == after.spec.depth, f"{rewrite.name} does not know its layers"
    parameters, nbytes = after.parameters - program.parameters, after.nbytes - program.nbytes
    promise, domain = rewrite.promise(program), rewrite.domain(program)
    steps.append(PassStep(rewrite, promise, origins, layers, parameters, nbytes, domain))
    return after


def _norm(_: Sequence[Violation], options: Options, gains: Gains) -> Pass:
    if options.norm == "carried":
        return LayerNormToRms()
    return LayerNormToRms(options.norm, gains if options.norm == "calibrated" else None)


def _norm_bias(_: Sequence[Violation], options: Options, gains: Gains) -> Pass:
    return CarryNormBias(gains or {}) if options.norm == "carried" else FoldNormBias()


def _final_bias(_: Sequence[Violation], options: Options, __: Gains) -> Pass:
    return AffineTail() if options.final_bias == "block" else DropHeadBias()


def _fill(violations: Sequence[Violation], _: Options, __: Gains) -> Pass:
    flags = {v.path for v in violations if v.path.endswith("_bias") and v.needs is True}
    return FillBiases(tuple(sorted(_projection(path) for path in flags)))


def _projection(path: str) -> str:
    """Return the projection of a bias's fact: `mixer.q` of `layers.*.mixer.attention.q_bias`."""
    parts = path.removesuffix("_bias").split(".")
    return f"{parts[2]}.{parts[-1]}"


def _repeat(violations: Sequence[Violation], _: Options, __: Gains) -> Pass | None:
    found = next(v for v in violations if v.path == KEY_VALUE_HEADS)
    if found.layer is not None:
        return RepeatKeyValueHeads()
    return RepeatKeyValueHeads(found.needs) if found.needs % found.found == 0 else None


def _rotary(_: Sequence[Violation], options: Options, __: Gains) -> Pass:
    return FullRotary(options.rope)


def _divisors(violations: Sequence[Violation], options: Options, __: Gains) -> Pass | None:
    """Lists of divisors differ because a part of each head turns, or for no reason that has a pass."""
    return FullRotary(options.rope) if any(v.path == ROTATED for v in violations) else None


class Anything:
    """Equal to every value of a fact."""

    def __eq__(self, other: object) -> bool:
        """Always."""
        return True

    __hash__ = object.__hash__


@dataclass(frozen=True)
class ViolationKind:
    """A kind of violation: its path fits the pattern, the fact is `found` and the target's is `needs`."""

    pattern: str
    found: object = Anything()
    needs: object = Anything()

    def fits(self, violation: Violation) -> bool:
        """Whether a violation is of this kind."""
        here = fnmatch(violation.path, self.pattern)
        return here and self.found == violation.found and self.needs == violation.needs


NORMS = ("layers.*.mixer_norm", "layers.*.mlp_norm", "final_norm")
KEY_VALUE_HEADS = "layers.*.mixer.attention.kv_heads"
ROTATED = "layers.*.mixer.attention.rope.dims"

RULES: tuple[Rule, ...] = (
    (ViolationKind("layers.*.mixer.attention.fused", found=True), lambda *_: SplitProjections()),
    (ViolationKind("layers.*.mlp.dense.fused", found=True), lambda *_: SplitProjections()),
    (ViolationKind(KEY_VALUE_HEADS), _repeat),
    (ViolationKind("layers.*.shared_norm", found=True), lambda *_: SeparateNorms()),
    (ViolationKind("layers.*.mlp_norm", found=None), lambda *_: SeparateNorms()),
    (ViolationKind("layers.*.mixer.attention.window", needs=None), lambda *_: DropWindow()),
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
    (ViolationKind("layers.*_bias", needs=True), _fill),
    (ViolationKind("layers.*.mixer.attention.fused", needs=True), lambda *_: FuseProjections()),
)
"""Which pass removes which violation, in the order in which passes run."""

REASONS: tuple[tuple[ViolationKind, str], ...] = (
    (ViolationKind("positions", needs=None), "positions are learned, and the target has no table of them"),
    (ViolationKind("positions"), "the target has a table of learned positions"),
    (
        ViolationKind("layers.*.mixer.attention.rope", found=None),
        "queries and keys are not rotated, and the target always rotates",
    ),
    (ViolationKind("layers.*.mixer.attention.rope"), "queries and keys are rotated, and the target never rotates"),
    (ViolationKind("layers.*.mixer.attention.rope.scaling*"), "the target cannot scale its rotation like this"),
    (
        ViolationKind("layers.*.mixer.attention.qk_norm", needs=None),
        "queries and keys are normalised, which no weights of the target can do",
    ),
    (
        ViolationKind("layers.*.mixer.attention.qk_norm*"),
        "the target normalises queries and keys, which no weights of it can undo",
    ),
    (ViolationKind("layers.*.mixer.attention.softcap"), "scores are capped by a tanh in one of the two models only"),
    (ViolationKind("head.softcap"), "logits are capped by a tanh in one of the two models only"),
    (ViolationKind("layers.*.mixer.attention.head_dim"), "the target's heads have the size width / heads"),
    (ViolationKind(KEY_VALUE_HEADS), "query heads share keys and values in groups that the target cannot form"),
    (ViolationKind("layers.*.mlp.dense.gated", found=True), "the MLP is gated, the target's is plain"),
    (
        ViolationKind("layers.*.parallel", found=True),
        "attention and MLP read the same stream, the target has no parallel residual",
    ),
    (ViolationKind("layers.*.parallel"), "attention and MLP follow one another, the target has them side by side"),
    (ViolationKind("layers.*.mlp_norm"), "attention and MLP have norms of their own, the target has one for both"),
    (
        ViolationKind("layers.*_post_norm", needs=None),
        "a norm stands behind attention and MLP, which no weights of the target can do",
    ),
    (
        ViolationKind("layers.*_post_norm"),
        "the target has norms behind attention and MLP, which no weights of it can undo",
    ),
    (
        ViolationKind("*norm.kind", found="none"),
        "attention and MLP read the stream as it is, the target normalises it first",
    ),
    (ViolationKind("*norm.kind"), "is a norm of another kind than the target's, which no weights of it can undo"),
    (ViolationKind("*.eps"), "norms have different epsilons, the target has one"),
    (ViolationKind("*norm.bias"), "the target's norms have biases, and these have none"),
    (ViolationKind("*_bias", found=True), "the target has no such bias"),
)
"""Why nothing removes a violation."""

WAY_OUT = "no exact map exists; distil it into a fresh model of the target instead"

OTHER_WAYS: tuple[tuple[Mapping[str, Any], str], ...] = (
    ({"final_bias": "drop"}, "no exact map exists; --final-bias drop makes an approximate one, which is measured"),
    (
        {"norm": "carried"},
        "no exact map exists; --norm carried makes a lossy one, which is measured and may be healed (kept heal)",
    ),
    (
        {"norm": "opm"},
        "no exact map exists; --norm opm makes a lossy one, which is measured, and a start for distillation",
    ),
)
"""Options that may make a plan where the usual ones do not, the better first."""


def _rules_for(found: Sequence[Violation]) -> list[Rule]:
    return [rule for rule in RULES if any(rule[0].fits(violation) for violation in found)]


def _refuse_unfixable(found: Sequence[Violation], options: Options, gains: Gains) -> None:
    fixable = [kind for kind, make in _rules_for(found) if make(found, options, gains) is not None]
    stuck = [v for v in found if not any(kind.fits(v) for kind in fixable)]
    # Of a norm of another kind, or of none, gain and epsilon are no news.
    kinds = tuple(v.path.removesuffix("kind") for v in stuck if v.path.endswith(".kind"))
    other = tuple(v for v in stuck if v.path.endswith(".kind") or not v.path.startswith(kinds))
    told = [v for v in other if not (kinds and v.path.endswith(".eps"))]
    if told:
        raise Refusal("; ".join((*_reasons(told), WAY_OUT)))


def _reasons(told: Sequence[Violation]) -> Iterator[str]:
    """One phrase for all violations with the same reason, the others as they are."""
    places: dict[str, list[str]] = {}
    for violation in told:
        why = next((text for kind, text in REASONS if kind.fits(violation)), None)
        if why is None:
            yield str(violation)
        else:
            places.setdefault(why, []).append(violation.where)
    for why, (first, *rest) in places.items():
        others = [place.removeprefix("every layer's ") for place in rest]
        yield f"{', '.join((first, *others))}: {why}"
