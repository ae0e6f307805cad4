"""Verifying: an output measured against its source, and held to what its record says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kept.checkpoint.reader import read_json
from kept.checkpoint.stream import digest
from kept.errors import CheckpointError, InputError, RecipeError
from kept.opened import Opened, open_model
from kept.passes.base import Promise
from kept.passes.plan import Claim
from kept.passes.vocabulary import ZERO, ExpandVocabulary
from kept.planning import make_plan
from kept.recipe import MOST_TOKENS, recipe_from
from kept.record import RECORD, learned
from kept.reporting import Reporter, Silent
from kept.writing import described

if TYPE_CHECKING:
    from kept.passes import Pass
    from kept.verification.verify import Verification


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
    from kept.verification.verify import layer_runs, verify_pair

    if not 2 <= tokens <= MOST_TOKENS:
        raise InputError(f"tokens: is {tokens}; to measure takes at least 2, and {MOST_TOKENS} are the most")
    before, after = open_model(source), open_model(out)
    claim = recorded(before, after)
    _check_sizes(before, after, claim)
    context = min(before.program.spec.context, after.program.spec.context)
    path = None if text is None else Path(text)
    found = sample(before.path, before.program.spec.vocabulary, context, tokens, path)
    runs = layer_runs(before, after, claim)
    with (reporter or Silent()).stage("verify", runs, "layer runs") as advance:
        measured = verify_pair(before, after, found, claim, streamed=streamed, progress=advance)
    notes = list(measured.notes)
    if not (after.path / RECORD).is_file():
        notes.append(f"{after.path} has no {RECORD}: it is held to the promise exact")
    notes += _other_source(before, after, reporter or Silent())
    if measured.output.tokens < tokens:
        notes.append(f"{found.origin} gave {measured.output.tokens} of {tokens} tokens; --text FILE reads a longer one")
    return replace(measured, notes=tuple(notes), altered=altered(after, reporter or Silent()))


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


def altered(after: Opened, reporter: Reporter) -> tuple[str, ...]:
    """The weight files of an output whose sums are not those in its record."""
    if not (after.path / RECORD).is_file():
        return ()
    sums = read_json(after.path / RECORD).get("files")
    with reporter.stage("check", sum(file.stat().st_size for file in after.files), "bytes") as advance:
        found = {file.name: digest(file, advance) for file in after.files}
    return tuple(name for name, value in found.items() if not isinstance(sums, dict) or sums.get(name) != value)


def recorded(before: Opened, after: Opened) -> Claim:
    """What an output states of itself, and what follows from its plan where that can be made again."""
    if not (after.path / RECORD).is_file():
        return Claim()
    stated = read_json(after.path / RECORD)
    try:
        promise = Promise(stated["promise"])
        if "healed" in stated:  # what was learned is in no plan
            return learned(stated, before.program.spec, after.program.spec)
        recipe = recipe_from({**stated["recipe"], "source": str(before.path), "out": ""})
        recipe = replace(recipe, passes=tuple(_own(rewrite, after) for rewrite in recipe.passes))
    except (KeyError, TypeError, ValueError, RecipeError) as error:
        raise CheckpointError(f"{after.path / RECORD}: is not a record of a conversion ({error})") from None
    if promise is not Promise.EXACT and not recipe.passes:
        return Claim(promise)
    claim = make_plan(before, recipe, unmeasured=promise is not Promise.EXACT).claim
    return replace(claim, promise=promise, program=claim.program if promise is Promise.EXACT else None)


def _own(rewrite: Pass, after: Opened) -> Pass:
    """A pass that can be run again: new tokens are those that the output reads; no old logit asks for their rows."""
    if not isinstance(rewrite, ExpandVocabulary):
        return rewrite
    return replace(rewrite, tokenizer=str(after.path), rows=ZERO)


def _check_sizes(before: Opened, after: Opened, claim: Claim) -> None:
    for what in ("vocabulary", "width"):
        sizes = getattr(before.program.spec, what), getattr(after.program.spec, what)
        grown = what == "vocabulary" and claim.tokens is not None and sizes[0] <= sizes[1]
        if sizes[0] != sizes[1] and not grown:
            said = f"has {what} {sizes[1]}, {before.path} has {sizes[0]}"
            raise InputError(f"{after.path}: {said}: not a conversion of it")
