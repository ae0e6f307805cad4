"""The planner: finds the passes after which a target can express a program.

Each violation names the pass that removes it; an obstacle of a pass may name a pass to run first. Violations that no
pass removes are refused with their reasons and a way out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from kept.errors import Refusal
from kept.ir.slots import readings
from kept.passes.base import UNNEEDED
from kept.passes.carry_norm_bias import Unmeasured
from kept.passes.cast_to import CastTo
from kept.passes.drop_window import LimitContext
from kept.passes.plan import PassStep, Plan
from kept.passes.reasons import OTHER_WAYS, TargetRefusal
from kept.passes.rules import Options, rules_for

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import torch

    from kept.ir.facts import Violation
    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.passes.base import Pass
    from kept.passes.rules import Gains

    Violations = Callable[[Spec], list[Violation]]

MOST_STEPS = 64
"""Largest number of passes in a plan. A planner without progress stops here."""


def legalise(program: Program, violations: Violations, options: Options, gains: Gains = None) -> Plan:
    """Return the plan after which the target whose `violations` are given can express the program.

    `gains` are the measurements that `options.norm` needs, by norm: calibrated gains, or the lengths of the norms'
    inputs. Raises TargetRefusal naming every violation that no pass removes; its way out is another option, if one
    leads to a plan. Raises Refusal if a pass cannot run.
    """
    try:
        return _plan(program, violations, options, gains)
    except TargetRefusal as refusal:
        other = next(
            (way for change, way in OTHER_WAYS if _works(program, violations, replace(options, **change))), None
        )
        if other is None:
            raise
        raise refusal.with_way_out(other) from None


def stand_ins(spec: Spec) -> dict[str, torch.Tensor]:
    """Return placeholders for the measurements of every LayerNorm: shapes without values, which need no torch."""
    measured = cast("torch.Tensor", Unmeasured((spec.width,)))
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
    found = violations(program.spec)
    while found:
        _refuse_unfixable(found, options, gains)
        rules = ((kind, make(found, options, gains)) for kind, make in rules_for(found))
        kind, rewrite = next((kind, made) for kind, made in rules if made is not None)
        wrong = [violation for violation in found if kind.fits(violation)]
        _refuse_unneeded(rewrite, program, wrong)
        program = _apply(rewrite, program, steps)
        found = violations(program.spec)
        if all(violation in found for violation in wrong):
            raise TargetRefusal(wrong)
    return Plan(tuple(steps), program)


def _refuse_unneeded(rewrite: Pass, program: Program, wrong: list[Violation]) -> None:
    """Raise TargetRefusal naming the violations that a pass is to remove if it has nothing to change."""
    obstacle = rewrite.requires(program)
    if obstacle is not None and obstacle.way_out == UNNEEDED:
        raise TargetRefusal(wrong)


def run_passes(program: Program, passes: Sequence[Pass]) -> Plan:
    """Return the plan of the given passes, in order and with none added. Raises Refusal if one cannot run."""
    steps: list[PassStep] = []
    for rewrite in passes:
        program = _step(rewrite.measured(program), program, steps)
    return Plan(tuple(steps), program)


def _apply(rewrite: Pass, program: Program, steps: list[PassStep]) -> Program:
    """Run the passes that this pass needs first, then the pass."""
    while (obstacle := rewrite.requires(program)) is not None and obstacle.fix is not None:
        program = _apply(obstacle.fix, program, steps)
    return _step(rewrite, program, steps)


def _step(rewrite: Pass, program: Program, steps: list[PassStep]) -> Program:
    assert len(steps) < MOST_STEPS, [step.rewrite.name for step in steps]
    after = rewrite(program)
    steps.append(PassStep.of(rewrite, program, after))
    return after


def _refuse_unfixable(found: Sequence[Violation], options: Options, gains: Gains) -> None:
    fixable = [kind for kind, make in rules_for(found) if make(found, options, gains) is not None]
    unfixable = [v for v in found if not any(kind.fits(v) for kind in fixable)]
    # The gain, bias and epsilon of a norm of another kind are no reasons of their own.
    kinds = tuple(v.path.removesuffix("kind") for v in unfixable if v.path.endswith(".kind"))
    other = [v for v in unfixable if v.path.endswith(".kind") or not v.path.startswith(kinds)]
    named = [v for v in other if not (kinds and v.path.endswith(".eps"))]
    if named:
        raise TargetRefusal(named)
