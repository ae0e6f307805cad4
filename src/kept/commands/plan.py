"""Plan a conversion: every check and choice between the recipe and the first byte written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from kept.branch_file import read_branches
from kept.checkpoint.companion_files import companions
from kept.checkpoint.output_path import check_apart, check_place
from kept.checkpoint.safetensors_writer import grown, shards, unchanged
from kept.checkpoint.staging import check_target
from kept.commands.truncate import truncation, violations
from kept.errors import InputError
from kept.families import TARGETS
from kept.families.lengths import domain
from kept.loaded import LoadedModel, open_model
from kept.native.carried_code import code_of
from kept.output.input_files import InputSnapshot
from kept.output.write_files import OutputFiles
from kept.output.write_record import new_parts
from kept.passes.expand_vocabulary import ExpandVocabulary
from kept.passes.layer_norm_to_rms import MEASURED
from kept.passes.legalize import legalise, run_passes, stand_ins
from kept.passes.plan import Plan, created
from kept.passes.reasons import TargetRefusal
from kept.passes.replace_branches import ReplaceBranches
from kept.recipe import SAME, SMALL, Recipe, recipe_from

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from kept.checkpoint.safetensors_writer import Shard
    from kept.families.table import Family
    from kept.ir.spec import Spec
    from kept.option_types import PlanOptions
    from kept.passes import Pass
    from kept.reporting import Reporter
    from kept.verification.text import Sample

CALIBRATION_TOKENS = 4096
"""Tokens on which calibrated norm modes are measured."""

STALE = {"_name_or_path", "auto_map", "transformers_version", "transformers_weights"}
"""Keys of a source's config that do not describe the model."""


WORDED = {"hidden_act", "hidden_activation", "activation", "activation_function"}
"""Keys that keep the source's value if it means the same: equal activations of other names round differently."""


@dataclass(frozen=True)
class PreparedConversion:
    """A conversion of which nothing is written yet. `tokens` is None if the output is not verified."""

    target: Path
    source: LoadedModel
    plan: Plan
    family: Family
    files: OutputFiles
    tokens: Sample | None


def plan(source: str | Path, to: str = "llama", **options: Unpack[PlanOptions]) -> Plan:
    """Plan a conversion: the passes in order, each with its promise. Writes nothing.

    Reads headers. Weights are read only by `drop-layers` (whether the dropped layers are zero).

    Args:
        source: a checkpoint directory, a GGUF file, a LoRA adapter or a hub id.
        to: the target family, or "same" for the source's own.
        options: fields of `kept.Recipe`: norm, final_bias, rope, context, dtype, base, adapter, tie, passes.

    Returns:
        The plan. `promise` is the weakest promise of its passes, `program` the result with lazy weights.

    Raises:
        Refusal: no plan exists; the message names the layer, the reason and the way out.
        CheckpointError: a file of the source is missing or damaged.

    Example:
        ```python
        found = kept.plan("path/to/orion-14b", to="llama")
        print(found.promise, [step.rewrite.name for step in found.steps])
        ```
    """
    recipe = recipe_from({"source": str(source), "out": "", "to": to}, **options)
    return make_plan(open_model(source, recipe.base, adapter=recipe.adapter, tie=recipe.tie), recipe, unmeasured=True)


def make_plan(source: LoadedModel, recipe: Recipe, *, unmeasured: bool = False) -> Plan:
    """Return the plan of a recipe. `unmeasured`: calibration is planned without measuring its gains."""
    own = own_plan(source, recipe)
    gains = stand_ins(own.program.spec) if unmeasured and recipe.norm in MEASURED else None
    return complete_plan(source, recipe, own, gains, truncation(source, recipe, own, target_family(source, recipe)))


def own_plan(source: LoadedModel, recipe: Recipe) -> Plan:
    """Return the recipe's own passes as a plan, without what its target needs."""
    return run_passes(source.program, own_passes(source, recipe))


def complete_plan(
    source: LoadedModel,
    recipe: Recipe,
    own: Plan,
    gains: Mapping[str, torch.Tensor] | None = None,
    latent: Pass | None = None,
) -> Plan:
    """Return the recipe's own passes, followed by those that its target needs.

    `gains` are measured values by norm. `latent` makes attention latent; None: exactly.

    Raises Refusal where the target cannot hold the model.
    """
    target = target_family(source, recipe)
    try:
        rest = legalise(own.program, violations(target, recipe), replace(recipe.options, latent=latent), gains)
    except TargetRefusal as refusal:  # a family expresses its own models, so the recipe's own passes are the reason
        if recipe.to != SAME:
            raise
        raise refusal.with_way_out("choose other layers, or another target (to)") from None
    between = domain(source.family, source.program.spec, target, rest.program.spec)
    return Plan((*own.steps, *rest.steps), rest.program, between, target.name)


def own_passes(source: LoadedModel, recipe: Recipe) -> tuple[Pass, ...]:
    """Return the recipe's passes with what they are given: the growth of vocabularies, branches from files."""
    reader, out = source.path, []  # type: Path, list[Pass]
    for rewrite in recipe.passes:
        if isinstance(rewrite, ExpandVocabulary):
            from kept.tokenizer.growth import growth

            grown = Path(rewrite.tokenizer)
            found = rewrite.growth or growth(reader, grown, rewrite.embedding_init)
            rewrite, reader = replace(rewrite, growth=found), grown  # noqa: PLW2901 - the same, measured
        if isinstance(rewrite, ReplaceBranches) and not rewrite.choices:
            rewrite = replace(rewrite, choices=read_branches(Path(str(rewrite.file))))  # noqa: PLW2901 - as above
        out.append(rewrite)
    return tuple(out)


def target_family(source: LoadedModel, recipe: Recipe) -> Family:
    """The family that a recipe's output is of."""
    return source.family if recipe.to == SAME else TARGETS[recipe.to]


def prepare(
    recipe: Recipe, reporter: Reporter, *, unmeasured: bool = False
) -> tuple[InputSnapshot, PreparedConversion]:
    """Do everything that may fail before the first byte is written: open, check the target, plan, read the tokens.

    `unmeasured`: calibration is planned without measuring its gains.
    """
    target = Path(recipe.out)
    check_target(target)
    source = open_model(recipe.source, recipe.base, adapter=recipe.adapter, tie=recipe.tie)
    inputs = InputSnapshot.take(source, recipe)
    _check_apart(target, source, recipe)
    own = own_plan(source, recipe)
    gains = _gains(source, recipe, own, reporter, unmeasured=unmeasured)
    family = target_family(source, recipe)
    latent = truncation(source, recipe, own, family, None if unmeasured else reporter)
    planned = complete_plan(source, recipe, own, gains, latent)
    files = _files(source, planned, family, recipe)
    new_parts(source, planned)  # raises if the source's record cannot be carried on
    return inputs, PreparedConversion(target, source, planned, family, files, _sample(source, planned, recipe))


def _check_apart(target: Path, source: LoadedModel, recipe: Recipe) -> None:
    """Raise OutputError if the target lies in an input, InputError if a text to calibrate on is missing."""
    for place in (source.source, source.checkpoint.adapter or source.source):
        check_place(place, target)
    grown = [one for one in recipe.passes if isinstance(one, ExpandVocabulary)]
    check_apart(target, {f"tokenizer {n}": Path(one.tokenizer) for n, one in enumerate(grown, 1)})
    if recipe.norm == "calibrated" and recipe.text is None:
        raise InputError("norm calibrated: needs text to measure on; give --text FILE")


def _files(source: LoadedModel, planned: Plan, family: Family, recipe: Recipe) -> OutputFiles:
    """Return the files of a conversion's output."""
    parts = _parts(source, planned, family, recipe)
    reader = next((Path(one.tokenizer) for one in reversed(planned.vocabularies)), None)
    extra = companions(source.path, planned.program.spec, reader, planned.suppressed_tokens)
    return OutputFiles(parts, _config(source, planned, family), {**extra, **code_of(family)})


def _config(source: LoadedModel, planned: Plan, family: Family) -> dict[str, Any]:
    """Return the config of the result; keys of the source's config stay if the family stays."""
    config = family.write_config(planned.program.spec, planned.program.dtype)
    if family is not source.family:
        return config
    rest = {key: value for key, value in own_keys(source).items() if key not in family.aliases}
    if planned.new_layers or planned.dropped:  # a list with a value for each layer has other layers
        depth = source.program.spec.depth
        rest = {key: value for key, value in rest.items() if not (isinstance(value, list) and len(value) == depth)}
    before = family.write_config(source.program.spec, source.program.dtype)
    own = {key: word for key, word in rest.items() if key in WORDED and before.get(key) == config.get(key)}
    return {**rest, **config, **own}


def own_keys(source: LoadedModel) -> dict[str, Any]:
    """Return the keys of a model's config that describe the model, and its class if that is ours."""
    stale = STALE - {"auto_map"} if source.family.carries_code else STALE
    return {key: value for key, value in source.config.items() if key not in stale}


def _parts(source: LoadedModel, planned: Plan, family: Family, recipe: Recipe) -> list[Shard]:
    """The files of the result: where a size is not asked for, as many of the source's own as can be."""
    tensors, stored, spec = family.write(planned.program), source.checkpoint.tensors, planned.program.spec
    if recipe.max_shard_size is not None:
        return shards(tensors, recipe.shard_bytes)
    found = unchanged(tensors, stored)
    if found is None and (planned.new_layers or planned.dropped):
        made = {*created(source.program.spec, planned)}
        found = grown(tensors, stored, {name for name, slot in family.places(spec).items() if slot in made})
    return found or shards(tensors, recipe.shard_bytes)


def _sample(source: LoadedModel, planned: Plan, recipe: Recipe) -> Sample | None:
    """The tokens to verify on, read before anything is written; None where verification is left out."""
    if recipe.verify_tokens == 0:
        return None
    text = None if recipe.text is None else Path(recipe.text)
    return short_sample(source, planned.program.spec, recipe.verify_tokens, text)


def short_sample(source: LoadedModel, output: Spec, count: int | None = None, text: Path | None = None) -> Sample:
    """The tokens on which an output is measured before it has its name: `count`, or fewer the larger the model is."""
    from kept.verification.text import sample

    context = min(source.program.spec.context, output.context)
    count = count or (512 if source.program.parameters < SMALL else 64)
    return sample(source.path, min(source.program.spec.vocabulary, output.vocabulary), context, count, text)


def _gains(
    source: LoadedModel, recipe: Recipe, own: Plan, reporter: Reporter, *, unmeasured: bool
) -> Mapping[str, torch.Tensor] | None:
    """Return what a calibrated norm mode needs, by norm: calibrated gains, or the lengths of the norms' inputs.

    They are measured on the recipe's text. `unmeasured`: placeholders are returned.
    """
    if recipe.norm not in MEASURED:
        return None
    spec = own.program.spec
    if unmeasured:
        return stand_ins(spec)
    from kept.verification.calibration import calibrate
    from kept.verification.text import sample

    text = None if recipe.text is None else Path(recipe.text)
    found = sample(source.path, spec.vocabulary, spec.context, CALIBRATION_TOKENS, text)
    with reporter.stage("calibrate", spec.depth, "layers") as advance:
        statistics = calibrate(own.program, found.tokens_BT, advance)
    return {name: one.gain if recipe.norm == "calibrated" else one.lengths for name, one in statistics.items()}
