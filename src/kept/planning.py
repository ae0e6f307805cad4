"""Planning: everything between a recipe and the first byte, so that what can go wrong goes wrong here."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.companions import companions
from kept.checkpoint.staging import check_target
from kept.checkpoint.writer import shards, unchanged
from kept.errors import InputError, OutputError
from kept.families import TARGETS
from kept.hub import local
from kept.opened import Opened, open_model
from kept.passes.legalize import Plan, legalise, run_passes, stand_ins
from kept.passes.rms import MEASURED
from kept.recipe import Recipe, recipe_from
from kept.writing import Inputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from kept.checkpoint.writer import Shard
    from kept.ir.spec import Spec
    from kept.reporting import Reporter
    from kept.verification.text import Sample

SMALL = 300_000_000
"""Parameters up to which the short verification reads 512 tokens; 64 above."""

STALE = {"_name_or_path", "auto_map", "transformers_version"}
"""Keys of a source's config that do not describe the model."""


@dataclass(frozen=True)
class Ready:
    """A conversion of which nothing is written yet."""

    target: Path
    source: Opened
    plan: Plan
    config: dict[str, Any]
    parts: list[Shard]
    tokens: Sample | None
    extra: Mapping[str, Path | bytes]


def plan(source: str | Path, to: str = "llama", **options: Any) -> Plan:  # noqa: ANN401 - a recipe's keys
    """The passes that a conversion would run. Reads headers only.

    `options` are a recipe's keys (norm, final_bias, context, dtype, passes). Raises Refusal naming the layer, the
    reason and the way out where there is no plan.
    """
    recipe = recipe_from({"source": str(source), "out": "", "to": to}, **options)
    return make_plan(open_model(source), recipe, unmeasured=True)


def make_plan(
    source: Opened, recipe: Recipe, gains: Mapping[str, torch.Tensor] | None = None, *, unmeasured: bool = False
) -> Plan:
    """The recipe's own passes, then what the target needs. `unmeasured`: plan calibration without its gains."""
    own = run_passes(source.program, recipe.passes)
    if recipe.norm in MEASURED and gains is None and unmeasured:
        gains = stand_ins(own.program.spec)
    rest = legalise(own.program, TARGETS[recipe.to].violations, recipe.options, gains)
    return Plan((*own.steps, *rest.steps), rest.program)


def prepare(recipe: Recipe, reporter: Reporter, *, unmeasured: bool = False) -> tuple[Inputs, Ready]:
    """Everything that may go wrong before the first byte is written."""
    target = Path(recipe.out)
    check_target(target)
    directory = local(recipe.source)
    inputs = Inputs.found(replace(recipe, source=str(directory)))
    source = open_model(directory)
    check_place(source.path, target)
    if recipe.norm == "calibrated" and recipe.text is None:
        raise InputError("norm calibrated: needs text to measure on; give --text FILE")
    gains = None if unmeasured else _gains(source, recipe, reporter)
    planned = make_plan(source, recipe, gains, unmeasured=unmeasured)
    family = TARGETS[recipe.to]
    config = family.write_config(planned.program.spec, planned.program.dtype)
    if family is source.family:
        config = {**{key: value for key, value in source.config.items() if key not in STALE}, **config}
    tensors = family.write(planned.program)
    as_they_are = unchanged(tensors, source.checkpoint.tensors) if recipe.shard_size is None else None
    parts = as_they_are or shards(tensors, recipe.shard_bytes)
    tokens = _sample(source, planned, recipe)
    extra = companions(source.path, planned.program.spec)
    return inputs, Ready(target, source, planned, config, parts, tokens, extra)


def check_place(source: Path, target: Path, called: str = "the source") -> None:
    """Raise OutputError where a target has no name of its own, or lies inside what it is made of."""
    inside, place = (
        Path(os.path.realpath(path)) for path in (source, target)
    )  # Path.resolve trips over a loop of links
    if target.name in {"", ".."}:
        raise OutputError(f"{target}: names no new directory; choose another output")
    if inside in (place, *place.parents):
        raise OutputError(f"{target}: lies inside {called}; choose a place outside of it")


def _sample(source: Opened, planned: Plan, recipe: Recipe) -> Sample | None:
    """The tokens to verify on, read before anything is written; None where verification is left out."""
    if recipe.verify_tokens == 0:
        return None
    text = None if recipe.text is None else Path(recipe.text)
    return short_sample(source, planned.program.spec, recipe.verify_tokens, text)


def short_sample(source: Opened, output: Spec, count: int | None = None, text: Path | None = None) -> Sample:
    """The tokens on which an output is measured before it has its name: `count`, or fewer the larger the model is."""
    from kept.verification.text import sample

    context = min(source.program.spec.context, output.context)
    count = count or (512 if source.program.parameters < SMALL else 64)
    return sample(source.path, output.vocabulary, context, count, text)


def _gains(source: Opened, recipe: Recipe, reporter: Reporter) -> dict[str, torch.Tensor] | None:
    """What the norms' way needs, measured on the recipe's text: calibrated gains, or lengths of what norms read."""
    if recipe.norm not in MEASURED:
        return None
    from kept.verification.calibration import calibrate
    from kept.verification.text import sample

    program = run_passes(source.program, recipe.passes).program
    spec = program.spec
    found = sample(source.path, spec.vocabulary, spec.context, 4096, None if recipe.text is None else Path(recipe.text))
    with reporter.stage("calibrate", spec.depth, "layer runs") as advance:
        statistics = calibrate(program, found.tokens_BT, advance)
    return {name: one.gain if recipe.norm == "calibrated" else one.lengths for name, one in statistics.items()}
