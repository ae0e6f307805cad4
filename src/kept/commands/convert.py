"""Converting: a recipe becomes a directory, or what it would be."""

from __future__ import annotations

import os
from dataclasses import dataclass
from shutil import disk_usage
from typing import TYPE_CHECKING, Any, Unpack

from kept.checkpoint.backup import replacing
from kept.checkpoint.companion_files import tokenizer_note
from kept.commands.expand import ExpandSettings
from kept.commands.plan import prepare
from kept.errors import OutputError
from kept.formatting import amount, parameters
from kept.output.export import Export, Reference, export
from kept.output.input_files import fingerprint
from kept.output.model_card import converted, model_card
from kept.output.write_record import conversion_record
from kept.recipe import Recipe, recipe_from
from kept.reporting import Progress, Reporter, Silent, reporter_of
from kept.summary import Summarised

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from kept.commands.plan import PreparedConversion
    from kept.option_types import ConvertOptions, ExpandOptions
    from kept.output.input_files import InputSnapshot
    from kept.passes.plan import Plan
    from kept.verification.verify import Verification


@dataclass(frozen=True, repr=False)
class Conversion(Summarised):
    """A finished conversion: output path, plan, verification, the record in `kept.json`, notes for the user."""

    path: Path
    plan: Plan
    verification: Verification | None
    record: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, str]:
        """Return path, passes, parameters and the verdict of the verification."""
        names = ", ".join(step.rewrite.name for step in self.plan.steps) or "none"
        verdict = "not verified" if self.verification is None else self.verification.verdict
        size = parameters(self.plan.program.parameters)
        return {
            "path": str(self.path),
            "family": self.plan.target,
            "passes": names,
            "parameters": size,
            "verdict": verdict,
        }


@dataclass(frozen=True, repr=False)
class DryRun(Summarised):
    """A conversion that was not written: the plan, each file's bytes, their sum, and the bytes that the disk has free.

    The model card and `kept.json` are not among the files: they say what is measured.
    """

    path: Path
    plan: Plan
    files: Mapping[str, int]
    nbytes: int
    free: int
    notes: tuple[str, ...] = ()

    def summary(self) -> dict[str, str]:
        """Return path, passes and size of what would be written."""
        names = ", ".join(step.rewrite.name for step in self.plan.steps) or "none"
        return {"path": f"{self.path} (not written)", "passes": names, "size": amount(self.nbytes, "bytes")}


def convert(
    source: str | Path,
    out: str | Path,
    to: str = "llama",
    *,
    progress: Progress = False,
    force: bool = False,
    **options: Unpack[ConvertOptions],
) -> Conversion:
    """Convert a checkpoint, write the result to `out`, and verify it.

    Args:
        source: a checkpoint directory, a GGUF file, a LoRA adapter or a hub id.
        out: the directory to write; it gets its name when everything is written and verified.
        to: the target family, or "same" for the source's own.
        progress: True shows bars on stderr; or a `kept.Reporter`.
        force: replace `out` if it exists; the old one is renamed to `out.backup-1`, or the next free number.
        options: other fields of `kept.Recipe`, such as norm, dtype, text or verify_tokens.

    Returns:
        The conversion: output path, plan, verification (None with `verify_tokens=0`), and the record in `kept.json`.

    Raises:
        CheckpointError: a file of the source is missing or damaged.
        Refusal: the target cannot express the model.
        OutputError: `out` cannot be written.
        PromiseError: the result measures worse than its passes promised; it is left beside `out` as `OUT.unkept`.

    Example:
        ```python
        done = kept.convert("path/to/orion-14b", "out/llama", to="llama")
        print(done.verification.proof.max_logit_error)
        ```
    """
    recipe = recipe_from({"source": str(source), "out": str(out), "to": to}, **options)
    return run(recipe, progress=progress, force=force)


def expand(
    source: str | Path,
    out: str | Path,
    *,
    progress: Progress = False,
    force: bool = False,
    **options: Unpack[ExpandOptions],
) -> Conversion:
    """Add layers or tokens to a checkpoint without a change of its function, and write the result to `out`.

    New layers are copies of existing ones whose output projections are zero (LLaMA Pro, arXiv 2401.02415). The logits
    of old tokens stay the same to the bit. `kept.heal` with `train="new"` then trains only what is new.

    Args:
        source: a checkpoint directory, a GGUF file or a hub id.
        out: the directory to write.
        progress: True shows bars on stderr; or a `kept.Reporter`.
        force: replace `out` if it exists; the old one is renamed to `out.backup-1`, or the next free number.
        options: `groups` and `blocks` (copies of the last layers of each group), `at` (indices of the new layers
            instead) and `placement` ("interleaved", "prefix" or "suffix"); `tokenizer` (a directory that
            `kept.merge_tokenizers` wrote), `embedding_init` ("mean", "zero" or a safetensors file) and
            `pad_to_multiple_of` for the rows of its new tokens; and what `kept.convert` takes.

    Returns:
        The conversion, as `kept.convert` returns it.

    Raises:
        InputError: the tokenizer is not an extension of the model's.
        KeptError: as `kept.convert`.

    Example:
        ```python
        kept.expand("path/to/llama", "out/pro", groups=8)
        ```
    """
    asked = ExpandSettings.from_table({"source": str(source), "out": str(out)}, **options)
    return run(asked.recipe, progress=progress, force=force)


def run(recipe: Recipe, *, progress: Progress = False, force: bool = False) -> Conversion:
    """Run a recipe: what `kept.convert` does, with all options in one value. Raises what `kept.convert` raises.

    Args:
        recipe: source, output and options.
        progress: True shows bars on stderr; or a `kept.Reporter`.
        force: replace the output if it exists; the old one is renamed to `OUT.backup-1`, or the next free number.

    Returns:
        The conversion.

    Example:
        ```python
        kept.run(kept.load_recipe("recipes/orion-to-llama.toml", source="path/to/orion-14b", out="out/llama"))
        ```
    """
    reporter = reporter_of(progress)
    with replacing(recipe.out, force=force, asked=recipe):
        inputs, ready = prepare(recipe, reporter)
        done = export(_export(recipe, inputs, ready), reporter)
    return Conversion(ready.target, ready.plan, done.verification, done.record, _notes(ready))


def _export(recipe: Recipe, inputs: InputSnapshot, ready: PreparedConversion) -> Export:
    """Return the values of a conversion's export."""
    source, planned = ready.source, ready.plan
    origin, sample = converted(source, ready.family, planned), ready.tokens
    return Export(
        target=ready.target,
        source=source,
        files=ready.files,
        fingerprint=fingerprint(source, recipe),
        reference=None if sample is None else Reference(source, sample, planned.claim, check_finite=True),
        inputs=inputs,
        card=lambda found: model_card(origin, planned.program, planned.promise, found),
        record=lambda sums, found: conversion_record(source, recipe, planned, sums, found),
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
        raise OutputError(f"{ready.target}: cannot be written, {place} is not a directory that you may write to")
    files = {part.name: part.file_bytes for part in ready.files.shards}
    files |= {name: len(v) if isinstance(v, bytes) else v.stat().st_size for name, v in ready.files.small.items()}
    done = DryRun(ready.target, ready.plan, files, sum(files.values()), disk_usage(place).free, _notes(ready))
    if done.free < done.nbytes:
        raise OutputError(f"{ready.target}: needs {done.nbytes} bytes, {place} has {done.free} free")
    return done
