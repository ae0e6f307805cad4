"""The planner: what a target cannot express, and the passes that make it expressible.

Each violation names the pass that removes it; a pass that is in the way of another is run first. A violation that
no pass removes is a refusal with its reason and the way out.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING, Literal

from kept.errors import Refusal
from kept.passes.base import Pass, Promise
from kept.passes.cast import CastTo
from kept.passes.fill import FillBiases
from kept.passes.fold_bias import FoldNormBias
from kept.passes.fold_head_norm import FoldHeadNorm
from kept.passes.fold_multipliers import FoldMultipliers
from kept.passes.fuse import FuseProjections
from kept.passes.gate import PlainToGated
from kept.passes.plain_gains import PlainGains
from kept.passes.repeat_heads import RepeatKeyValueHeads
from kept.passes.rms import LayerNormToRms, Mode
from kept.passes.rotary import FullRotary
from kept.passes.split import SplitProjections
from kept.passes.tail import AffineTail, DropHeadBias
from kept.passes.untie import UntieHead
from kept.passes.window import DropWindow, LimitContext

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from kept.ir.facts import Violation
    from kept.ir.program import Program
    from kept.ir.spec import Spec

    Violations = Callable[[Spec], list[Violation]]
    Gains = Mapping[str, torch.Tensor] | None
    Maker = Callable[[Sequence[Violation], "Options", Gains], Pass | None]

MOST_STEPS = 64
"""More passes than any plan has: a planner that goes round in circles stops here."""


@dataclass(frozen=True)
class Options:
    """What the user may choose about a conversion."""

    norm: Mode = "exact"
    final_bias: Literal["block", "drop"] = "block"
    context: int | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Step:
    """A pass of a plan: its promise on this program, and the change in layers, parameters and bytes."""

    rewrite: Pass
    promise: Promise
    layers: int
    parameters: int
    nbytes: int


@dataclass(frozen=True)
class Plan:
    """The passes that were found, in order, and the program that they make."""

    steps: tuple[Step, ...]
    program: Program

    @property
    def promise(self) -> Promise:
        """The weakest promise of all steps."""
        return max((step.promise for step in self.steps), key=lambda promise: promise.rank, default=Promise.EXACT)


def legalise(program: Program, violations: Violations, options: Options, gains: Gains = None) -> Plan:
    """The plan that makes a program expressible for the target whose `violations` are given.

    `gains` are the calibrated norms' gains; a plan that is only printed may leave them out. Raises Refusal naming
    every violation that no pass removes, or the pass that cannot run, each with its reason and way out.
    """
    steps: list[Step] = []
    if options.context is not None and options.context != program.spec.context:
        program = _apply(LimitContext(options.context), program, steps)
    if options.dtype is not None and any(t.dtype != options.dtype for t in program.weights.values()):
        program = _apply(CastTo(options.dtype), program, steps)
    while found := violations(program.spec):
        _refuse_unfixable(found, options, gains)
        rewrite = next(made for rule in _rules_for(found) if (made := rule.make(found, options, gains)) is not None)
        program = _apply(rewrite, program, steps)
    return Plan(tuple(steps), program)


def run_passes(program: Program, passes: Sequence[Pass]) -> Plan:
    """The given passes, in order and with nothing added."""
    steps: list[Step] = []
    for rewrite in passes:
        program = _step(rewrite, program, steps)
    return Plan(tuple(steps), program)


def _apply(rewrite: Pass, program: Program, steps: list[Step]) -> Program:
    """Run what the pass needs first, then the pass."""
    while (obstacle := rewrite.requires(program)) is not None and obstacle.fix is not None:
        program = _apply(obstacle.fix, program, steps)
    return _step(rewrite, program, steps)


def _step(rewrite: Pass, program: Program, steps: list[Step]) -> Program:
    assert len(steps) < MOST_STEPS, [step.rewrite.name for step in steps]
    after = rewrite(program)
    layers = after.spec.depth - program.spec.depth
    parameters, nbytes = after.parameters - program.parameters, after.nbytes - program.nbytes
    steps.append(Step(rewrite, rewrite.promise(program), layers, parameters, nbytes))
    return after


def _norm(_: Sequence[Violation], options: Options, gains: Gains) -> Pass:
    return LayerNormToRms(options.norm, gains if options.norm == "calibrated" else None)


def _final_bias(_: Sequence[Violation], options: Options, __: Gains) -> Pass:
    return AffineTail() if options.final_bias == "block" else DropHeadBias()


def _fill(violations: Sequence[Violation], _: Options, __: Gains) -> Pass:
    flags = {v.path for v in violations if v.path.endswith("_bias") and v.needs is True}
    return FillBiases(tuple(sorted(path.removeprefix("layers.*.").removesuffix("_bias") for path in flags)))


def _repeat(violations: Sequence[Violation], _: Options, __: Gains) -> Pass | None:
    found = next(v for v in violations if v.path == KEY_VALUE_HEADS)
    if found.layer is not None:
        return RepeatKeyValueHeads()
    return RepeatKeyValueHeads(found.needs) if found.needs % found.found == 0 else None


def _whole(violations: Sequence[Violation], _: Options, __: Gains) -> Pass | None:
    """Divisors of pairs that stand still differ because a part of each head turns, or for no reason that has a pass."""
    return FullRotary() if any(v.path == ROTATED for v in violations) else None


class Anything:
    """Equal to every value of a fact."""

    def __eq__(self, other: object) -> bool:
        """Always."""
        return True

    __hash__ = object.__hash__


@dataclass(frozen=True)
class Rule:
    """Violations whose path fits the pattern and whose fact is `found` (or `needs`), and the pass that removes them."""

    pattern: str
    make: Maker
    found: object = Anything()
    needs: object = Anything()

    def fits(self, violation: Violation) -> bool:
        """Whether the rule is about this violation."""
        return fnmatch(violation.path, self.pattern) and self.found == violation.found and self.needs == violation.needs


KEY_VALUE_HEADS = "layers.*.mixer.kv_heads"

ROTATED = "layers.*.mixer.rope.dims"

RULES: tuple[Rule, ...] = (
    Rule("layers.*.mixer.fused", lambda *_: SplitProjections(), found=True),
    Rule("layers.*.mlp.fused", lambda *_: SplitProjections(), found=True),
    Rule(KEY_VALUE_HEADS, _repeat),
    Rule("layers.*.mixer.window", lambda *_: DropWindow(), needs=None),
    Rule("layers.*.mlp.gated", lambda *_: PlainToGated(), found=False),
    Rule(ROTATED, lambda *_: FullRotary()),
    Rule("layers.*.mixer.rope.scaling.*_factor", _whole),
    Rule("layers.*.mixer.rope.interleaved", lambda *_: FullRotary(), found=True),
    Rule("head.normalised", lambda *_: FoldHeadNorm(), found=True),
    Rule("*multiplier", lambda *_: FoldMultipliers(), needs=1.0),
    Rule("layers.*.mixer.scale", lambda *_: FoldMultipliers(), needs=None),
    Rule("*norm.gain", lambda *_: PlainGains(), needs=True),
    Rule("*norm.offset", lambda *_: PlainGains(), needs=0.0),
    *(
        Rule(f"{norm}.kind", _norm, "layer", "rms")
        for norm in ("layers.*.mixer_norm", "layers.*.mlp_norm", "final_norm")
    ),
    Rule("layers.*.mixer_norm.bias", lambda *_: FoldNormBias(), found=True),
    Rule("layers.*.mlp_norm.bias", lambda *_: FoldNormBias(), found=True),
    Rule("final_norm.bias", lambda *_: FoldNormBias(), found=True),
    Rule("head.bias", _final_bias, found=True),
    Rule("head.tied", lambda *_: UntieHead(), found=True),
    Rule("layers.*_bias", _fill, needs=True),
    Rule("layers.*.mixer.fused", lambda *_: FuseProjections(), needs=True),
)
"""Which pass removes which violation, in the order in which passes run."""

REASONS: tuple[tuple[str, str], ...] = (
    ("positions", "positions are learned, and the target has no table of them"),
    ("layers.*.mixer.rope", "queries and keys are not rotated, and the target always rotates"),
    ("layers.*.mixer.rope.scaling*", "the target cannot scale its rotation like this"),
    ("layers.*.mixer.qk_norm*", "queries and keys are normalised in one of the two models, which no weights can do"),
    ("layers.*.mixer.softcap", "scores are capped by a tanh, which no weights of the target can do"),
    ("head.softcap", "logits are capped by a tanh, which no weights of the target can do"),
    ("layers.*.mixer.head_dim", "the target's heads have the size width / heads"),
    (KEY_VALUE_HEADS, "query heads share keys and values in other groups than the target can say"),
    ("layers.*.mlp.gated", "the MLP is gated and the target's is plain"),
    ("layers.*.mlp.activation", "the target has another activation"),
    ("layers.*.parallel", "attention and MLP read the same stream in one of the two models only"),
    ("layers.*.mlp_norm", "attention and MLP share one norm, the target has two"),
    ("layers.*_post_norm", "norms stand behind attention and MLP in one of the two models, which no weights can do"),
    ("*norm.kind", "the stream is normalised in another way there, which no weights can do"),
    ("*.eps", "norms have different epsilons, the target has one"),
    ("*norm.bias", "the target's norms have biases, and these have none"),
    ("*_bias", "the target has no such bias"),
)
"""Why nothing removes a violation."""

WAY_OUT = "no exact map exists; distil it into a fresh model of the target instead"


def _rules_for(found: Sequence[Violation]) -> list[Rule]:
    return [rule for rule in RULES if any(rule.fits(violation) for violation in found)]


def _refuse_unfixable(found: Sequence[Violation], options: Options, gains: Gains) -> None:
    fixable = [rule for rule in _rules_for(found) if rule.make(found, options, gains) is not None]
    stuck = [v for v in found if not any(rule.fits(v) for rule in fixable)]
    # Of a norm of another kind, or of none, gain and epsilon are no news.
    kinds = tuple(v.path.removesuffix("kind") for v in stuck if v.path.endswith(".kind"))
    told = [v for v in stuck if v.path.endswith(".kind") or not v.path.startswith(kinds)]
    if told:
        raise Refusal("; ".join(dict.fromkeys(_reason(violation) for violation in told)) + f"; {WAY_OUT}")


def _reason(violation: Violation) -> str:
    why = next((text for pattern, text in REASONS if fnmatch(violation.path, pattern)), None)
    return str(violation) if why is None else f"{violation.where}: {why}"
