"""Verifying: an output measured against its source, and held to what its record says."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kept.branch_file import read_branches
from kept.checkpoint.byte_stream import digest
from kept.commands.plan import make_plan
from kept.errors import CheckpointError, InputError, RecipeError
from kept.hub import local, name_of
from kept.ir.promise import Claim, Promise
from kept.loaded import LoadedModel, open_model
from kept.output.input_files import input_files
from kept.output.layer_pairing import stream_map
from kept.output.record import RECORD, RecipeRecord, read_record
from kept.output.record_queries import claim_of
from kept.passes.expand_vocabulary import ZERO, ExpandVocabulary
from kept.passes.replace_branches import ReplaceBranches
from kept.recipe import MOST_TOKENS, recipe_from
from kept.reporting import Progress, Reporter, reporter_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kept.output.record import PastRecord
    from kept.passes import Pass
    from kept.passes.replace_branches import BranchChoice
    from kept.recipe import Recipe
    from kept.verification.verify import Verification


def verify(
    source: str | Path,
    out: str | Path,
    *,
    text: str | Path | None = None,
    tokens: int = 2048,
    streamed: bool = False,
    tie: bool | None = None,
    progress: Progress = False,
) -> Verification:
    """Measure an output against its source and judge it by the promise in its `kept.json`.

    If the plan in the record can be made again, it is also proved in float64. An output without a record is held to
    EXACT. Weight files that changed since they were written break any promise.

    Args:
        source: the model that the output was made from.
        out: the output.
        text: a UTF-8 file to measure on; without one, a built-in sample of four languages.
        tokens: number of tokens of the text.
        streamed: never hold a whole model in memory; leaves out the continuations.
        tie: overrides the record's choice between embedding (True) and stored head (False).
        progress: True shows bars on stderr; or a `kept.Reporter`.

    Returns:
        The verification: logit errors, KL in nats per token, perplexities, error of each layer. `failure` is None if
        the promise is kept.

    Raises:
        CheckpointError: a file of one of the two is missing or damaged.
        InputError: the text has too few tokens, or there is no tokenizer.

    Example:
        ```python
        assert kept.verify("path/to/orion-14b", "out/llama", text="my.txt").failure is None
        ```
    """
    from kept.verification.text import sample
    from kept.verification.verify import verify_pair

    if not 2 <= tokens <= MOST_TOKENS:
        raise InputError(f"tokens: is {tokens}; to measure takes at least 2, and {MOST_TOKENS} are the most")
    after = open_model(out)
    before = open_model(source, tie=_recorded_tie(source, after) if tie is None else tie)
    origin = between(before, after, reporter_of(progress))
    claim = claimed(before, after, origin.chain)
    _check_sizes(before, after, claim)
    context = min(before.program.spec.context, after.program.spec.context)
    path = None if text is None else Path(text)
    found = sample(before.path, before.program.spec.vocabulary, context, tokens, path)
    measured = verify_pair(before, after, found, claim, streamed=streamed, reporter=reporter_of(progress))
    notes = [*measured.notes, *origin.notes]
    if measured.same is not None and measured.same.tokens < tokens:
        notes.append(f"{found.origin} gave {measured.same.tokens} of {tokens} tokens; --text FILE reads a longer one")
    return replace(measured, notes=tuple(notes), altered=altered(after, reporter_of(progress)))


def _recorded_tie(source: str | Path, after: LoadedModel) -> bool | None:
    """Return the `tie` option with which an output was made from a source, by the output's record; None if unknown."""
    record, name = read_record(after.path), name_of(local(source))
    for one in () if record is None else (record, *record.history):
        if one.source is not None and one.recipe is not None and one.source.name == name:
            return one.recipe.tie
    return None


@dataclass(frozen=True)
class Comparison:
    """The records of the steps between a source and an output, oldest first, and notes for the user."""

    chain: tuple[PastRecord, ...]
    notes: tuple[str, ...] = ()


def between(before: LoadedModel, after: LoadedModel, reporter: Reporter) -> Comparison:
    """Return the steps in an output's record from the conversion of the given source on.

    A source that no record names is no failure: the same weights may have been saved in other shards since, and what
    they compute is measured.
    """
    record = read_record(after.path)
    if record is None:
        return Comparison((), (f"{after.path} has no {RECORD}: it is held to the promise exact",))
    stated = [{} if one.source is None else one.source.files for one in record.chain]
    files = [file for file in input_files(before) if any(file.name in sums for sums in stated)]
    with reporter.stage("compare", sum(file.stat().st_size for file in files), "bytes") as advance:
        found = {file.name: digest(file, advance) for file in files}
    matching = (n for n in reversed(range(len(stated))) if not stated[n] or not _differing(found, stated[n]))
    place = next(matching, None)
    if place is None:
        differ = ", ".join(_differing(found, stated[-1]))
        return Comparison(record.chain, (f"{before.path}: not the source that {RECORD} names: {differ} differ",))
    since = record.chain[place:]
    note = f"{before.path}: {len(since)} conversions ago; held to the weakest of their promises"
    return Comparison(since, (note,) if len(since) > 1 else ())


def _differing(found: Mapping[str, str], stated: Mapping[str, str]) -> list[str]:
    """Return the names of files whose sha256 differs from the record, or that are missing."""
    differ = [name for name, value in found.items() if name in stated and value != stated[name]]
    return [*differ, *sorted(stated.keys() - found.keys())]


def altered(after: LoadedModel, reporter: Reporter) -> tuple[str, ...]:
    """Return the names of an output's weight files whose sha256 differs from its record."""
    record = read_record(after.path)
    if record is None:
        return ()
    with reporter.stage("check", sum(file.stat().st_size for file in after.files), "bytes") as advance:
        found = {file.name: digest(file, advance) for file in after.files}
    return tuple(name for name, value in found.items() if record.files.get(name) != value)


def claimed(before: LoadedModel, after: LoadedModel, chain: Sequence[PastRecord]) -> Claim:
    """Return the claim of an output: what the records state, and what follows from a plan that can be made again.

    Raises CheckpointError if the records do not describe a conversion.
    """
    if not chain:
        return Claim()
    last, promises = chain[-1], [one.promise for one in chain if one.promise is not None]
    if len(promises) < len(chain):
        raise _no_conversion(after, "promise: is missing")
    promise, stream = max(promises, key=lambda one: one.rank), stream_map(after, before)
    domain = tuple(dict.fromkeys(where for one in chain for where in one.domain))
    if last.healed is not None or len(chain) > 1:  # no plan has trained weights, or more than one conversion
        claim = claim_of(last, promise, before.program.spec, after.program.spec)
        return replace(claim, domain=domain, stream=stream)
    located = _with_branch_files(after, last)
    if located is None:
        return replace(claim_of(last, promise, before.program.spec, after.program.spec), domain=domain, stream=stream)
    recipe = _recipe(before, after, located)
    if promise is not Promise.EXACT and not recipe.passes:
        return Claim(promise, domain=domain, stream=stream)
    claim = make_plan(before, recipe, unmeasured=promise is not Promise.EXACT).claim
    program = claim.program if promise is Promise.EXACT else None
    return replace(claim, promise=promise, program=program, stream=stream)


def _with_branch_files(after: LoadedModel, record: PastRecord) -> PastRecord | None:
    """Return the record with the paths of the files of replaced branches; None if one is not beside the output.

    Without them the plan cannot be made again, and the output is compared without a proof in float64.
    """
    table = {} if record.recipe is None else record.recipe.table()
    passes = []
    for one in table.get("passes", ()):
        if not isinstance(one, dict) or one.get("name") != ReplaceBranches.name:
            passes.append(one)
            continue
        file = after.path.parent / Path(str(one.get("file"))).name
        if not file.is_file() or not _are_recorded(read_branches(file), record):
            return None
        passes.append({**one, "file": str(file)})
    return record.model_copy(update={"recipe": RecipeRecord(**{**table, "passes": passes})}) if passes else record


def _are_recorded(choices: Sequence[BranchChoice], record: PastRecord) -> bool:
    """Return whether the record of a replacement states these operations and the digest of these weights."""
    stated = [one.options.get("branches") for one in record.passes or () if one.name == ReplaceBranches.name]
    return {choice.where: choice.record() for choice in choices} in stated


def _recipe(before: LoadedModel, after: LoadedModel, record: PastRecord) -> Recipe:
    """Return the recipe of a conversion, with passes that can be run again."""
    if record.recipe is None:
        raise _no_conversion(after, "recipe: is missing")
    try:
        recipe = recipe_from({**record.recipe.table(), "source": str(before.path), "out": ""})
    except RecipeError as error:
        raise _no_conversion(after, str(error)) from None
    return replace(recipe, passes=tuple(_own(rewrite, after) for rewrite in recipe.passes))


def _no_conversion(after: LoadedModel, why: str) -> CheckpointError:
    return CheckpointError(f"{after.path / RECORD}: is not a record of a conversion ({why}); convert again")


def _own(rewrite: Pass, after: LoadedModel) -> Pass:
    """A pass that can be run again: new tokens are those that the output reads; no old logit asks for their rows."""
    if not isinstance(rewrite, ExpandVocabulary):
        return rewrite
    return replace(rewrite, tokenizer=str(after.path), embedding_init=ZERO)


def _check_sizes(before: LoadedModel, after: LoadedModel, claim: Claim) -> None:
    for what in ("vocabulary", "width"):
        sizes = getattr(before.program.spec, what), getattr(after.program.spec, what)
        grown = what == "vocabulary" and claim.tokens is not None and sizes[0] <= sizes[1]
        if sizes[0] != sizes[1] and not grown:
            said = f"has {what} {sizes[1]}, {before.path} has {sizes[0]}"
            raise InputError(f"{after.path}: {said}: not a conversion of it")
