"""Plan, convert, verify: the three things that a user asks for, in the words of the command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING, Any, cast

from kept.checkpoint.companions import companions
from kept.checkpoint.reader import read_json
from kept.checkpoint.staging import Staging, check_target, staging
from kept.checkpoint.stream import digest
from kept.checkpoint.writer import shards, to_json, unchanged
from kept.errors import CheckpointError, InputError, OutputError, PromiseError
from kept.families import TARGETS
from kept.ir.slots import readings
from kept.opened import Opened, open_model
from kept.passes.base import Promise
from kept.passes.legalize import Plan, legalise, run_passes
from kept.recipe import Recipe, recipe_from
from kept.record import RECORD, model_card, record
from kept.reporting import Reporter, Silent
from kept.writing import Inputs, fingerprint, write_small, write_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.verification.text import Sample
    from kept.verification.verify import Verification

SMALL = 2_000_000_000
"""Parameters up to which the short verification reads 512 tokens; 64 above."""

STALE = {"_name_or_path", "auto_map", "transformers_version"}
"""Keys of a source's config that do not describe the model."""


@dataclass(frozen=True)
class Conversion:
    """A finished conversion: where it is, the plan, what was measured, and what `kept.json` says."""

    path: Path
    plan: Plan
    verification: Verification | None
    record: Mapping[str, Any]


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
    if recipe.norm == "calibrated" and gains is None and unmeasured:
        gains = _stand_ins(own.program.spec)
    rest = legalise(own.program, TARGETS[recipe.to].violations, recipe.options, gains)
    return Plan((*own.steps, *rest.steps), rest.program)


def convert(source: str | Path, out: str | Path, to: str = "llama", **options: Any) -> Conversion:  # noqa: ANN401
    """Convert a checkpoint directory and write the result to `out`, with a short verification at the end.

    `options` are a recipe's keys: norm, final_bias, context, dtype, shard_size, text, verify_tokens, passes (see
    `kept.Recipe`). Raises KeptError kinds: CheckpointError for bad input, Refusal where the target
    cannot hold the model, OutputError where `out` cannot be written, PromiseError where the result is not what its
    passes promised (it is then left beside `out` under `.unkept`).
    """
    return run(recipe_from({"source": str(source), "out": str(out), "to": to}, **options))


def run(recipe: Recipe, reporter: Reporter | None = None) -> Conversion:
    """Run a recipe."""
    reporter = reporter or Silent()
    target = Path(recipe.out)
    check_target(target)
    inputs = Inputs.found(recipe)
    source = open_model(recipe.source)
    _check_place(source.path, target)
    planned = make_plan(source, recipe, _gains(source, recipe, reporter))
    family = TARGETS[recipe.to]
    config = family.write_config(planned.program.spec, planned.program.dtype)
    if family is source.family:
        config = {**{key: value for key, value in source.config.items() if key not in STALE}, **config}
    tensors = family.write(planned.program)
    as_they_are = unchanged(tensors, source.checkpoint.tensors) if recipe.shard_size is None else None
    parts = as_they_are or shards(tensors, recipe.shard_bytes)
    tokens = _sample(source, planned, recipe)
    extra = companions(source.path, planned.program.spec)  # what is wrong with them shows before anything is written
    with staging(target, fingerprint(source, recipe)) as stage:
        small = write_small(stage, parts, config, extra)
        hashes = write_weights(stage, parts, source, reporter)
        found = _verify_staged(source, stage, planned, tokens, reporter)
        if found is not None and not isfinite(found.floor.kl):
            raise CheckpointError(f"{source.path}: its own logits are not finite; a weight is NaN or infinite")
        stage.write("README.md", model_card(source, planned.program.spec, recipe.to, planned, found))
        hashes["output"].update({name: digest(stage.path / name) for name in (*small, "README.md")})
        written = record(source, recipe, planned, hashes, found)
        stage.write(RECORD, to_json(written))
        if found is not None and found.failure is not None:
            aside = _set_aside(stage)
            raise PromiseError(f"{target}: not written; {found.failure}; the result is in {aside} for a look")
        inputs.check()
        stage.publish()
    return Conversion(target, planned, found, written)


def verify(
    source: str | Path,
    out: str | Path,
    *,
    text: str | Path | None = None,
    tokens: int = 2048,
    streamed: bool = False,
    reporter: Reporter | None = None,
) -> Verification:
    """Measure an output against its source and judge it by the promise that its `kept.json` states.

    Where the record's plan can be made again, it is proved in float64 too. An output without a record is held to
    EXACT at the dtype's noise floor. Weight files that changed since they were written break any promise. Look at
    `.failure`: None where the promise is kept.
    """
    from kept.verification.text import sample
    from kept.verification.verify import verify_pair

    if tokens < 2:
        raise InputError(f"tokens: is {tokens}; at least 2 are needed to measure anything")
    before, after = open_model(source), open_model(out)
    _check_vocabularies(before, after)
    promise, planned = _recorded(before, after)
    context = min(before.program.spec.context, after.program.spec.context)
    path = None if text is None else Path(text)
    found = sample(before.path, before.program.spec.vocabulary, context, tokens, path)
    depth = 2 * before.program.spec.depth + after.program.spec.depth * (2 if planned is not None else 1)
    with (reporter or Silent()).stage("verify", depth, "layer runs") as advance:
        measured = verify_pair(before, after, found, promise, planned, streamed=streamed, progress=advance)
    notes = list(measured.notes)
    if not (after.path / RECORD).is_file():
        notes.append(f"{after.path} has no {RECORD}: it is held to the promise exact")
    if measured.output.tokens < tokens:
        notes.append(f"{found.origin} gave {measured.output.tokens} of {tokens} tokens; --text FILE reads a longer one")
    return replace(measured, notes=tuple(notes), altered=_altered(after, reporter or Silent()))


def _altered(after: Opened, reporter: Reporter) -> tuple[str, ...]:
    """The weight files of an output whose sums are not those in its record."""
    if not (after.path / RECORD).is_file():
        return ()
    sums = read_json(after.path / RECORD).get("files")
    with reporter.stage("check", sum(file.stat().st_size for file in after.files), "bytes") as advance:
        found = {file.name: digest(file, advance) for file in after.files}
    return tuple(name for name, value in found.items() if not isinstance(sums, dict) or sums.get(name) != value)


def _recorded(before: Opened, after: Opened) -> tuple[Promise, Program | None]:
    """The promise that an output states, and its plan's program where it can be made again."""
    if not (after.path / RECORD).is_file():
        return Promise.EXACT, None
    stated = read_json(after.path / RECORD)
    try:
        promise = Promise(stated["promise"])
        recipe = recipe_from({**stated["recipe"], "source": str(before.path), "out": ""})
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{after.path / RECORD}: is not a record of a conversion ({error})") from None
    return promise, make_plan(before, recipe).program if promise is Promise.EXACT else None


def _check_vocabularies(before: Opened, after: Opened) -> None:
    for what in ("vocabulary", "width"):
        sizes = getattr(before.program.spec, what), getattr(after.program.spec, what)
        if sizes[0] != sizes[1]:
            said = f"has {what} {sizes[1]}, {before.path} has {sizes[0]}"
            raise InputError(f"{after.path}: {said}: not a conversion of it")


def _check_place(source: Path, target: Path) -> None:
    inside = source.resolve()
    if inside in (target.resolve(), *target.resolve().parents):
        raise OutputError(f"{target}: lies inside the source; choose a place outside of it")


def _set_aside(stage: Staging) -> Path:
    """Publish a result that broke its promise as `.unkept`, in place of an earlier one."""
    aside = stage.target.with_name(f"{stage.target.name}.unkept")
    if (aside / RECORD).is_file():
        rmtree(aside)
    Staging(stage.path, aside).publish()
    return aside


def _sample(source: Opened, planned: Plan, recipe: Recipe) -> Sample | None:
    """The tokens to verify on, read before anything is written; None where verification is left out."""
    if recipe.verify_tokens == 0:
        return None
    from kept.verification.text import sample

    count = recipe.verify_tokens or (512 if source.program.parameters < SMALL else 64)
    spec = planned.program.spec
    text = None if recipe.text is None else Path(recipe.text)
    return sample(source.path, spec.vocabulary, spec.context, count, text)


def _verify_staged(
    source: Opened, stage: Staging, planned: Plan, tokens: Sample | None, reporter: Reporter
) -> Verification | None:
    if tokens is None:
        return None
    from kept.verification.verify import verify_pair

    output = open_model(stage.path)
    proved = planned.program if planned.promise is Promise.EXACT else None
    depth = 2 * source.program.spec.depth + planned.program.spec.depth * (2 if proved is not None else 1)
    with reporter.stage("verify", depth, "layer runs") as advance:
        return verify_pair(source, output, tokens, planned.promise, proved, progress=advance)


def _gains(source: Opened, recipe: Recipe, reporter: Reporter) -> dict[str, torch.Tensor] | None:
    """The calibrated norms' gains, measured on the recipe's text."""
    if recipe.norm != "calibrated":
        return None
    if recipe.text is None:
        raise InputError("norm calibrated: needs text to measure on; give --text FILE")
    from kept.verification.calibration import calibrate
    from kept.verification.text import sample

    program = run_passes(source.program, recipe.passes).program
    spec = program.spec
    found = sample(source.path, spec.vocabulary, spec.context, 4096, Path(recipe.text))
    with reporter.stage("calibrate", spec.depth, "layer runs") as advance:
        statistics = calibrate(program, found.tokens_BT, advance)
    return {name: one.gain for name, one in statistics.items()}


@dataclass(frozen=True)
class _Unmeasured:
    """Stands for a gain in a plan that is only printed."""

    shape: tuple[int, ...]


def _stand_ins(spec: Spec) -> dict[str, torch.Tensor]:
    """Gains of the right shape and no values, so that such a plan needs no torch."""
    gain = cast("torch.Tensor", _Unmeasured((spec.width,)))
    return {r.norm: gain for r in readings(spec) if r.value.kind == "layer"}
