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
from kept.passes.gate import PlainToGated
from kept.passes.rms import LayerNormToRms, Mode
from kept.passes.rotary import FullRotary, RopeForm
from kept.passes.split import SplitProjections
from kept.passes.tail import AffineTail, DropHeadBias
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
    rope: RopeForm = "llama3"
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
        rewrite = next(made for _, make in _rules_for(found) if (made := make(found, options, gains)) is not None)
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


def _fill(violations: Sequence[Violation], _: Options, __: Gains) -> Pass | None:
    flags = {v.path for v in violations if v.path.endswith("_bias") and v.needs is True}
    names = sorted(path.removeprefix("layers.*.").removesuffix("_bias") for path in flags)
    return FillBiases(tuple(names)) if names else None


RULES: tuple[tuple[str, Maker], ...] = (
    ("layers.*.mixer.fused", lambda *_: SplitProjections()),
    ("layers.*.mlp.fused", lambda *_: SplitProjections()),
    ("layers.*.mixer.window", lambda *_: DropWindow()),
    ("layers.*.mlp.gated", lambda *_: PlainToGated()),
    ("layers.*.mixer.rope.dims", lambda _, options, __: FullRotary(options.rope)),
    ("layers.*.mixer.rope.interleaved", lambda _, options, __: FullRotary(options.rope)),
    ("*norm.kind", _norm),
    ("*norm.bias", lambda *_: FoldNormBias()),
    ("head.bias", _final_bias),
    ("layers.*_bias", _fill),
)
"""Which pass removes which violation, in the order in which passes run."""

REASONS: tuple[tuple[str, str], ...] = (
    ("positions", "positions are learned, and the target has no table of them"),
    ("layers.*.mixer.rope", "queries and keys are not rotated, and the target always rotates"),
    ("layers.*.mixer.qk_norm*", "queries and keys are normalised, which no weights of the target can do"),
    (
        "layers.*.parallel",
        "attention and MLP read the same stream, the target has no parallel residual",
    ),
    ("layers.*.mlp_norm", "attention and MLP share one norm, the target has two"),
    ("*.eps", "norms have different epsilons, the target has one"),
    ("*_bias", "the target has no such bias"),
)
"""Why nothing removes a violation."""

WAY_OUT = "no exact map exists; distil it into a fresh model of the target instead"


def _rules_for(found: Sequence[Violation]) -> list[tuple[str, Maker]]:
    return [rule for rule in RULES if any(fnmatch(violation.path, rule[0]) for violation in found)]


def _refuse_unfixable(found: Sequence[Violation], options: Options, gains: Gains) -> None:
    fixable = [(pattern, make) for pattern, make in _rules_for(found) if make(found, options, gains) is not None]
    stuck = [v for v in found if not any(fnmatch(v.path, pattern) for pattern, _ in fixable)]
    if stuck:
        raise Refusal("; ".join(dict.fromkeys(_reason(violation) for violation in stuck)) + f"; {WAY_OUT}")


def _reason(violation: Violation) -> str:
    why = next((text for pattern, text in REASONS if fnmatch(violation.path, pattern)), None)
    return str(violation) if why is None else f"{violation.where}: {why}"
