"""Plan, convert, verify: the three things that a user asks for, in the words of the command line."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from itertools import chain, count
from math import isfinite
from pathlib import Path
from shutil import disk_usage, rmtree
from typing import TYPE_CHECKING, Any, cast

from kept.checkpoint.companions import companions, left_behind
from kept.checkpoint.finite import first_not_finite
from kept.checkpoint.reader import read_json
from kept.checkpoint.staging import Staging, check_target, staging
from kept.checkpoint.stream import digest
from kept.checkpoint.writer import shards, to_json, unchanged
from kept.errors import CheckpointError, InputError, OutputError, PromiseError, RecipeError
from kept.families import TARGETS
from kept.hub import local
from kept.ir.slots import readings
from kept.ir.tensors import TORCH_NAMES
from kept.opened import Opened, open_model
from kept.passes.base import Promise
from kept.passes.legalize import Plan, legalise, run_passes
from kept.recipe import MOST_TOKENS, Recipe, recipe_from
from kept.record import RECORD, model_card, record
from kept.reporting import Reporter, Silent
from kept.writing import Inputs, described, fingerprint, small_files, write_small, write_weights

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from kept.checkpoint.writer import Shard
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
    """A finished conversion: where it is, the plan, what was measured, what `kept.json` says, and what was left out."""

    path: Path
    plan: Plan
    verification: Verification | None
    record: Mapping[str, Any]
    note: str | None = None


@dataclass(frozen=True)
class Rehearsal:
    """What a conversion would write: the plan, each file's bytes, their sum, and the bytes that the disk has free.

    The model card and `kept.json` are not among the files: they say what is measured.
    """

    path: Path
    plan: Plan
    files: Mapping[str, int]
    nbytes: int
    free: int


@dataclass(frozen=True)
class _Ready:
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
    inputs, ready = _prepare(recipe, reporter)
    source, planned, target = ready.source, ready.plan, ready.target
    with staging(target, fingerprint(source, recipe)) as stage:
        small = write_small(stage, ready.parts, ready.config, ready.extra)
        hashes = write_weights(stage, ready.parts, source, reporter)
        found = _verify_staged(source, stage, planned, ready.tokens, reporter)
        if found is not None and not isfinite(found.floor.kl):
            raise CheckpointError(_not_finite(source))
        stage.write("README.md", model_card(source, planned.program.spec, recipe.to, planned, found))
        hashes["output"].update({name: digest(stage.path / name) for name in (*small, "README.md")})
        written = record(source, recipe, planned, hashes, found)
        stage.write(RECORD, to_json(written))
        if found is not None and found.failure is not None:
            aside = _set_aside(stage)
            raise PromiseError(f"{target}: not written; {found.failure}; the result is in {aside} for a look")
        inputs.check()
        stage.publish()
    return Conversion(target, planned, found, written, left_behind(source.path))


def rehearse(recipe: Recipe, reporter: Reporter | None = None) -> Rehearsal:
    """Do everything up to writing: open, plan, read the tokenizer and the text, check the target and its disk.

    Calibration is planned and not measured. Raises what `run` would raise so far, and OutputError where the disk has
    too little room.
    """
    _, ready = _prepare(recipe, reporter or Silent(), unmeasured=True)
    place = next(folder for folder in ready.target.absolute().parents if folder.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise OutputError(f"{ready.target}: cannot be written, {place} is no directory that you may write to")
    small = small_files(ready.parts, ready.config, ready.extra)
    files = {part.name: part.file_bytes for part in ready.parts}
    files |= {name: len(v) if isinstance(v, bytes) else v.stat().st_size for name, v in small.items()}
    done = Rehearsal(ready.target, ready.plan, files, sum(files.values()), disk_usage(place).free)
    if done.free < done.nbytes:
        raise OutputError(f"{ready.target}: needs {done.nbytes} bytes, {place} has {done.free} free")
    return done


def _prepare(recipe: Recipe, reporter: Reporter, *, unmeasured: bool = False) -> tuple[Inputs, _Ready]:
    """Everything that may go wrong before the first byte is written."""
    target = Path(recipe.out)
    check_target(target)
    directory = local(recipe.source)
    inputs = Inputs.found(replace(recipe, source=str(directory)))
    source = open_model(directory)
    _check_place(source.path, target)
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
    return inputs, _Ready(target, source, planned, config, parts, tokens, extra)


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

    if not 2 <= tokens <= MOST_TOKENS:
        raise InputError(f"tokens: is {tokens}; to measure takes at least 2, and {MOST_TOKENS} are the most")
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
    notes += _other_source(before, after, reporter or Silent())
    if measured.output.tokens < tokens:
        notes.append(f"{found.origin} gave {measured.output.tokens} of {tokens} tokens; --text FILE reads a longer one")
    return replace(measured, notes=tuple(notes), altered=_altered(after, reporter or Silent()))


def _other_source(before: Opened, after: Opened, reporter: Reporter) -> list[str]:
    """A note where a record names other files than the source given has.

    No failure: the same weights may have been saved in other shards since, and what they compute is measured.
    """
    stated = read_json(after.path / RECORD).get("source") if (after.path / RECORD).is_file() else None
    sums = stated.get("files") if isinstance(stated, dict) else None
    if not isinstance(sums, dict):
        return []
    files = [file for file in described(before) if file.name in sums]
    with reporter.stage("compare", sum(file.stat().st_size for file in files), "bytes") as advance:
        differ = [file.name for file in files if digest(file, advance) != sums[file.name]]
    differ += sorted(sums.keys() - {file.name for file in files})
    return [f"{before.path}: not the source that {RECORD} names: {', '.join(differ)} differ"] if differ else []


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
    except (KeyError, TypeError, ValueError, RecipeError) as error:
        raise CheckpointError(f"{after.path / RECORD}: is not a record of a conversion ({error})") from None
    return promise, make_plan(before, recipe).program if promise is Promise.EXACT else None


def _not_finite(source: Opened) -> str:
    """Why a source's logits are not finite: the weight that is no number, which takes reading all of them to find."""
    found = first_not_finite(source.checkpoint.tensors)
    if found is None:
        return (
            f"{source.path}: its own logits overflow in {TORCH_NAMES[source.program.dtype]}; --dtype float32 may help"
        )
    name, count = found
    file = source.checkpoint.tensors[name].file
    return f"{file}: {name} holds {count}; fetch the file again (kept check names every such tensor)"


def _check_vocabularies(before: Opened, after: Opened) -> None:
    for what in ("vocabulary", "width"):
        sizes = getattr(before.program.spec, what), getattr(after.program.spec, what)
        if sizes[0] != sizes[1]:
            said = f"has {what} {sizes[1]}, {before.path} has {sizes[0]}"
            raise InputError(f"{after.path}: {said}: not a conversion of it")


def _check_place(source: Path, target: Path) -> None:
    inside, place = (
        Path(os.path.realpath(path)) for path in (source, target)
    )  # Path.resolve trips over a loop of links
    if target.name in {"", ".."}:
        raise OutputError(f"{target}: names no new directory; choose another output")
    if inside in (place, *place.parents):
        raise OutputError(f"{target}: lies inside the source; choose a place outside of it")


def _set_aside(stage: Staging) -> Path:
    """Publish a result that broke its promise as `.unkept`, in place of an earlier one."""
    first = stage.target.with_name(f"{stage.target.name}.unkept")
    places = chain([first], (first.with_name(f"{first.name}-{number}") for number in count(2)))
    aside = next(place for place in places if _is_ours(place) or not os.path.lexists(place))
    if _is_ours(aside):
        rmtree(aside)
    Staging(stage.path, aside).publish()
    return aside


def _is_ours(place: Path) -> bool:
    """Whether a directory is the output of a conversion; a link to one is not."""
    return not place.is_symlink() and (place / RECORD).is_file()


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
    assert recipe.text is not None
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
