"""Verifying: an output measured against its source, and held to what its record says."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kept.checkpoint.byte_stream import digest
from kept.checkpoint.json_file import read_json
from kept.commands.plan import make_plan
from kept.errors import CheckpointError, InputError, RecipeError
from kept.hub import local, name_of
from kept.ir.promise import Claim, Promise
from kept.loaded import LoadedModel, open_model
from kept.output.input_files import input_files
from kept.output.record import RECORD, claim_of, domain, recorded
from kept.passes.expand_vocabulary import ZERO, ExpandVocabulary
from kept.recipe import MOST_TOKENS, recipe_from
from kept.reporting import Reporter, Silent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kept.passes import Pass
    from kept.verification.verify import Verification


def verify(
    source: str | Path,
    out: str | Path,
    *,
    text: str | Path | None = None,
    tokens: int = 2048,
    streamed: bool = False,
    tie: bool | None = None,
    reporter: Reporter | None = None,
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
        reporter: is told about progress.

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
    from kept.verification.verify import layer_runs, verify_pair

    if not 2 <= tokens <= MOST_TOKENS:
        raise InputError(f"tokens: is {tokens}; to measure takes at least 2, and {MOST_TOKENS} are the most")
    after = open_model(out)
    before = open_model(source, tie=_told(source, after) if tie is None else tie)
    origin = between(before, after, reporter or Silent())
    claim = claimed(before, after, origin.chain)
    _check_sizes(before, after, claim)
    context = min(before.program.spec.context, after.program.spec.context)
    path = None if text is None else Path(text)
    found = sample(before.path, before.program.spec.vocabulary, context, tokens, path)
    runs = layer_runs(before, after, claim)
    with (reporter or Silent()).stage("verify", runs, "layer runs") as advance:
        measured = verify_pair(before, after, found, claim, streamed=streamed, progress=advance)
    notes = [*measured.notes, *origin.notes]
    if measured.output.tokens < tokens:
        notes.append(f"{found.origin} gave {measured.output.tokens} of {tokens} tokens; --text FILE reads a longer one")
    return replace(measured, notes=tuple(notes), altered=altered(after, reporter or Silent()))


def _told(source: str | Path, after: LoadedModel) -> bool | None:
    """Return the `tie` option with which an output was made from a source, by the output's record; None if unknown."""
    own, name = recorded(after), name_of(local(source))
    earlier = own.get("history")
    for record in (own, *(earlier if isinstance(earlier, list) else [])):
        with suppress(LookupError, TypeError):  # the record may have been edited
            if record["source"]["name"] == name:
                told = record["recipe"]["tie"]
                return told if isinstance(told, bool) else None
    return None


@dataclass(frozen=True)
class Comparison:
    """The records of what lies between a source and an output, oldest first, and what is to be said of them."""

    chain: tuple[Mapping[str, Any], ...]
    notes: tuple[str, ...] = ()


def between(before: LoadedModel, after: LoadedModel, reporter: Reporter) -> Comparison:
    """What an output's record tells, from the conversion on whose source is the one given.

    A source that no record names is no failure: the same weights may have been saved in other shards since, and what
    they compute is measured.
    """
    own = recorded(after)
    if not own:
        return Comparison((), (f"{after.path} has no {RECORD}: it is held to the promise exact",))
    told = own.get("history")
    chain = tuple(one for one in (*(told if isinstance(told, list) else ()), own) if isinstance(one, dict))
    stated = [_source_sums(one) for one in chain]
    files = [file for file in input_files(before) if any(file.name in sums for sums in stated)]
    with reporter.stage("compare", sum(file.stat().st_size for file in files), "bytes") as advance:
        found = {file.name: digest(file, advance) for file in files}
    place = next((n for n in reversed(range(len(chain))) if not stated[n] or not _differing(found, stated[n])), None)
    if place is None:
        differ = ", ".join(_differing(found, stated[-1]))
        return Comparison(chain, (f"{before.path}: not the source that {RECORD} names: {differ} differ",))
    since = chain[place:]
    said = f"{before.path}: {len(since)} conversions ago; held to the weakest of their promises"
    return Comparison(since, (said,) if len(since) > 1 else ())


def _source_sums(record: Mapping[str, Any]) -> Mapping[str, Any]:
    source = record.get("source")
    sums = source.get("files") if isinstance(source, dict) else None
    return sums if isinstance(sums, dict) else {}


def _differing(found: Mapping[str, str], stated: Mapping[str, Any]) -> list[str]:
    """The files of which a record states another sum, or which are not there."""
    differ = [name for name, value in found.items() if name in stated and value != stated[name]]
    return [*differ, *sorted(stated.keys() - found.keys())]


def altered(after: LoadedModel, reporter: Reporter) -> tuple[str, ...]:
    """The weight files of an output whose sums are not those in its record."""
    if not (after.path / RECORD).is_file():
        return ()
    sums = read_json(after.path / RECORD).get("files")
    with reporter.stage("check", sum(file.stat().st_size for file in after.files), "bytes") as advance:
        found = {file.name: digest(file, advance) for file in after.files}
    return tuple(name for name, value in found.items() if not isinstance(sums, dict) or sums.get(name) != value)


def claimed(before: LoadedModel, after: LoadedModel, chain: Sequence[Mapping[str, Any]]) -> Claim:
    """What the records between a source and an output state, and what follows from a plan that can be made again."""
    if not chain:
        return Claim()
    stated = chain[-1]
    try:
        promise = max((Promise(one["promise"]) for one in chain), key=lambda one: one.rank)
        held = tuple(dict.fromkeys(where for one in chain for where in domain(one)))
        if "healed" in stated or len(chain) > 1:  # what was learned is in no plan, nor is more than one conversion
            return replace(claim_of(stated, promise, before.program.spec, after.program.spec), domain=held)
        recipe = recipe_from({**stated["recipe"], "source": str(before.path), "out": ""})
        recipe = replace(recipe, passes=tuple(_own(rewrite, after) for rewrite in recipe.passes))
    except (KeyError, TypeError, ValueError, RecipeError) as error:
        raise CheckpointError(f"{after.path / RECORD}: is not a record of a conversion ({error})") from None
    if promise is not Promise.EXACT and not recipe.passes:
        return Claim(promise, domain=held)
    claim = make_plan(before, recipe, unmeasured=promise is not Promise.EXACT).claim
    return replace(claim, promise=promise, program=claim.program if promise is Promise.EXACT else None)


def _own(rewrite: Pass, after: LoadedModel) -> Pass:
    """A pass that can be run again: new tokens are those that the output reads; no old logit asks for their rows."""
    if not isinstance(rewrite, ExpandVocabulary):
        return rewrite
    return replace(rewrite, tokenizer=str(after.path), rows=ZERO)


def _check_sizes(before: LoadedModel, after: LoadedModel, claim: Claim) -> None:
    for what in ("vocabulary", "width"):
        sizes = getattr(before.program.spec, what), getattr(after.program.spec, what)
        grown = what == "vocabulary" and claim.tokens is not None and sizes[0] <= sizes[1]
        if sizes[0] != sizes[1] and not grown:
            said = f"has {what} {sizes[1]}, {before.path} has {sizes[0]}"
            raise InputError(f"{after.path}: {said}: not a conversion of it")
