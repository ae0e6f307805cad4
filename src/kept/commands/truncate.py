"""The truncation of a conversion's attention to a smaller KV cache: planned from shapes, or measured on text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.compression.latent.sizes import planned_size
from kept.compression.latent.stand_in import stand_in
from kept.errors import InputError
from kept.ir.facts import Violation
from kept.ir.spec import Attention, LatentAttention
from kept.passes.legalize import legalise, run_passes
from kept.passes.to_latent import ToLatent

if TYPE_CHECKING:
    from collections.abc import Callable

    from kept.families.table import Family
    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.loaded import LoadedModel
    from kept.passes.plan import Plan
    from kept.passes.truncate_latent import TruncateLatent
    from kept.recipe import Recipe
    from kept.reporting import Reporter

LATENT = "deepseek_v3"
"""The target that messages name."""


def check_cache(recipe: Recipe) -> None:
    """Raise InputError for settings of the cache that contradict each other, and for a missing calibration text."""
    given = [key for key in ("kv", "kv_ranks", "kv_energy") if getattr(recipe, key) is not None]
    if len(given) > 1:
        raise InputError(f"{given[0]} and {given[1]} both set the size of the cache; give one of them")
    if not recipe.truncates and recipe.data:
        raise InputError("data: calibrates a smaller KV cache; give --kv too, or leave it out")


def truncation(
    source: LoadedModel, recipe: Recipe, own: Plan, target: Family, measure: Reporter | None = None
) -> TruncateLatent | None:
    """Return the pass that truncates attention for a recipe; None if the cache keeps its size.

    It is measured if there is a reporter, else it has the right shapes and no values. Raises InputError if the target
    or the source has no attention to truncate, or if there is no text to measure on.
    """
    check_cache(recipe)
    if not recipe.truncates:
        return None
    before = _before_latent(own, target, recipe)
    planned = stand_in(before, planned_size(_attention(before), recipe.truncation), recipe.ranks)
    _check_ranks(target, planned(before), recipe)
    if measure is None:
        return planned
    from kept.commands.calibration_text import calibration_text
    from kept.compression.calibrate import Calibration
    from kept.compression.latent.truncate import truncate

    text = calibration_text(source, recipe, measure)
    return truncate(Calibration(before, text.tokens_BT), recipe.truncation, measure, text.about)


def violations(target: Family, recipe: Recipe) -> Callable[[Spec], list[Violation]]:
    """Return the target's `violations`; attention is one if the cache is to be smaller and the target has both kinds.

    Such a target is our own class, which holds attention as it is.
    """
    if not recipe.truncates or not {Attention.KIND, LatentAttention.KIND} <= {*target.tensors.kinds("mixer")}:
        return target.violations

    def found(spec: Spec) -> list[Violation]:
        if any(True for _ in spec.operations(Attention)):
            return [Violation("layers.*.mixer", Attention.KIND, LatentAttention.KIND)]
        return target.violations(spec)

    return found


def _before_latent(own: Plan, target: Family, recipe: Recipe) -> Program:
    """Return the program as it is when the exact conversion makes its attention latent."""
    steps = legalise(own.program, violations(target, recipe), recipe.options).steps
    place = next((at for at, step in enumerate(steps) if isinstance(step.rewrite, ToLatent)), None)
    if place is None:
        why = f"a conversion to {target.name} makes no attention latent"
        raise InputError(f"kv: {why}, so there is no cache to truncate; choose another target, such as --to {LATENT}")
    return run_passes(own.program, [step.rewrite for step in steps[:place]]).program


def _attention(program: Program) -> Attention:
    """Return the attention of all layers. Raises InputError if layers differ: they share rotary slots."""
    (first, one), *others = program.spec.operations(Attention)
    place = next((at for at, other in others if other != one), None)
    if place is not None:
        why = f"{place[:-1]} and {first[:-1]} have different attention, and all layers share the slots of the cache"
        raise InputError(f"kv: {why}; leave out --kv for the exact form")
    return one


def _check_ranks(target: Family, made: Program, recipe: Recipe) -> None:
    """Raise InputError if ranks differ by layer and the target has one for all."""
    wrong = any(violation.path.endswith("latent.kv_rank") for violation in target.violations(made.spec))
    if recipe.ranks == "per-layer" and wrong:
        raise InputError(
            f"ranks per-layer: {target.name} has one rank for all layers; use --ranks uniform, or --to kept"
        )
