"""Converting: a recipe becomes a directory, or what it would be."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from shutil import disk_usage
from typing import TYPE_CHECKING, Any

from kept.checkpoint.companion_files import tokenizer_note
from kept.commands.plan import prepare
from kept.errors import OutputError, RecipeError
from kept.output.export import Export, Reference, export
from kept.output.input_files import fingerprint
from kept.output.model_card import converted, model_card
from kept.output.record import record
from kept.passes.expand_blocks import ExpandBlocks
from kept.passes.expand_vocabulary import MEAN, ExpandVocabulary
from kept.recipe import SAME, Recipe, recipe_from
from kept.reporting import Reporter, Silent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from kept.commands.plan import PreparedConversion
    from kept.output.input_files import InputSnapshot
    from kept.passes import Pass
    from kept.passes.expand_blocks import Place
    from kept.passes.plan import Plan
    from kept.verification.verify import Verification


@dataclass(frozen=True)
class Conversion:
    """A finished conversion: output path, plan, verification, the record in `kept.json`, notes for the user."""

    path: Path
    plan: Plan
    verification: Verification | None
    record: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class DryRun:
    """What a conversion would write: the plan, each file's bytes, their sum, and the bytes that the disk has free.

    The model card and `kept.json` are not among the files: they say what is measured.
    """

    path: Path
    plan: Plan
    files: Mapping[str, int]
    nbytes: int
    free: int
    notes: tuple[str, ...] = ()


def convert(source: str | Path, out: str | Path, to: str = "llama", **options: Any) -> Conversion:  # noqa: ANN401
    """Convert a checkpoint directory and write the result to `out`, with a short verification at the end.

    `options` are a recipe's keys: norm, final_bias, context, dtype, shard_size, text, verify_tokens, passes (see
    `kept.Recipe`). Raises KeptError kinds: CheckpointError for bad input, Refusal where the target
    cannot hold the model, OutputError where `out` cannot be written, PromiseError where the result is not what its
    passes promised (it is then left beside `out` under `.unkept`).
    """
    return run(recipe_from({"source": str(source), "out": str(out), "to": to}, **options))


def expand(  # noqa: PLR0913 - each is a word that users say
    source: str | Path,
    out: str | Path,
    *,
    groups: int | None = None,
    blocks: int = 1,
    place: Place = "interleaved",
    at: Sequence[int] = (),
    tokenizer: str | Path | None = None,
    rows: str | Path = MEAN,
    multiple: int = 1,
    **options: Any,  # noqa: ANN401 - a recipe's keys
) -> Conversion:
    """Give a checkpoint layers that add nothing yet, or tokens that it did not have, and write the result to `out`.

    Copies of layers are put between the layers; `groups`, `blocks`, `place` and `at` are the fields of
    `kept.passes.expand_blocks.ExpandBlocks`. A `tokenizer`, a directory as `kept.merge_tokenizers` writes it, is taken
    over, and its new tokens get rows; `rows` and `multiple` are those of
    `kept.passes.expand_vocabulary.ExpandVocabulary`.
    What the model computes stays the same to the bit, and `kept.heal` with `train="new"` then trains the new alone.
    `options` and what is raised are those of `convert`; InputError too where the tokenizer is not the model's, grown.
    """
    layers = {"groups": groups, "blocks": blocks, "place": place, "at": tuple(at)}
    passes = expansion(layers, {"tokenizer": tokenizer, "rows": str(rows), "multiple": multiple})
    return run(recipe_from({"source": str(source), "out": str(out), "to": SAME, "passes": passes}, **options))


def expansion(layers: Mapping[str, Any], tokens: Mapping[str, Any]) -> list[Pass]:
    """The passes that an expansion is: of layers, of tokens where there is a tokenizer, or of both.

    `layers` and `tokens` are fields of the two passes. Raises RecipeError where nothing is asked for, or half of it.
    """
    tokenizer = tokens.get("tokenizer")
    if tokenizer is None and (tokens.get("rows", MEAN) != MEAN or tokens.get("multiple", 1) != 1):
        raise RecipeError("tokenizer: is missing; rows and multiple are about its new tokens")
    defaults = {field.name: field.default for field in fields(ExpandBlocks)}
    passes: list[Pass] = []
    if tokenizer is None or any(value != defaults[key] for key, value in layers.items()):
        passes.append(ExpandBlocks(**layers))
    if tokenizer is not None:
        passes.append(ExpandVocabulary(**{**tokens, "tokenizer": str(tokenizer)}))
    return passes


def run(recipe: Recipe, reporter: Reporter | None = None) -> Conversion:
    """Run a recipe."""
    reporter = reporter or Silent()
    inputs, ready = prepare(recipe, reporter)
    done = export(_export(recipe, inputs, ready), reporter)
    return Conversion(ready.target, ready.plan, done.verification, done.record, _notes(ready))


def _export(recipe: Recipe, inputs: InputSnapshot, ready: PreparedConversion) -> Export:
    """Return the values of a conversion's export."""
    source, planned = ready.source, ready.plan
    origin, spec = converted(source, ready.family, planned), planned.program.spec
    sample = ready.tokens
    return Export(
        target=ready.target,
        source=source,
        files=ready.files,
        fingerprint=fingerprint(source, recipe),
        reference=None if sample is None else Reference(source, sample, planned.claim, check_finite=True),
        inputs=inputs,
        card=lambda found: model_card(origin, spec, planned.promise, found),
        record=lambda sums, found: record(source, recipe, planned, sums, found),
    )


def _notes(ready: PreparedConversion) -> tuple[str, ...]:
    """Return the notes of a conversion for the user, one line each."""
    source, family = ready.source, ready.family
    last = tokenizer_note(source.path, source.family.name, family.name)
    if last is None and not family.stock:
        last = f"transformers has no class for {family.name}; kept convert {ready.target} makes it one that it has"
    return (*source.notes, *(() if last is None else (last,)))


def rehearse(recipe: Recipe, reporter: Reporter | None = None) -> DryRun:
    """Do everything up to writing: open, plan, read the tokenizer and the text, check the target and its disk.

    Calibration is planned and not measured. Raises what `run` would raise so far, and OutputError where the disk has
    too little room.
    """
    _, ready = prepare(recipe, reporter or Silent(), unmeasured=True)
    place = next(folder for folder in ready.target.absolute().parents if folder.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise OutputError(f"{ready.target}: cannot be written, {place} is no directory that you may write to")
    files = {part.name: part.file_bytes for part in ready.files.shards}
    files |= {name: len(v) if isinstance(v, bytes) else v.stat().st_size for name, v in ready.files.small.items()}
    done = DryRun(ready.target, ready.plan, files, sum(files.values()), disk_usage(place).free, _notes(ready))
    if done.free < done.nbytes:
        raise OutputError(f"{ready.target}: needs {done.nbytes} bytes, {place} has {done.free} free")
    return done
