"""Queries of a record about new layers and tokens, checked against the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kept.errors import CheckpointError
from kept.ir.promise import Claim
from kept.output.record import RECORD, read_record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kept.ir.promise import Promise
    from kept.ir.spec import Spec
    from kept.loaded import LoadedModel
    from kept.output.record import ExpansionRecord, PastRecord, VocabularyRecord


def expansions(opened: LoadedModel) -> list[dict[int, int | None]]:
    """Return every block expansion in a checkpoint's record, oldest first: new layers and what each is a copy of.

    Raises CheckpointError if the checkpoint does not have these layers.
    """
    record = read_record(opened.path)
    found = () if record is None else record.expansions
    if not all(_fits(one, opened.program.spec.depth) for one in found):
        file = opened.path / RECORD
        raise CheckpointError(f"{file}: its expansions are not those of this model; remove the file")
    return [dict(zip(one.layers, one.copies_of, strict=True)) for one in found]


def _fits(one: ExpansionRecord, depth: int) -> bool:
    distinct = len(set(one.layers)) == len(one.layers) == len(one.copies_of)
    return distinct and {*one.layers, *one.copies_of} <= {*range(depth), None}


def new_copies(opened: LoadedModel) -> tuple[int, ...]:
    """Return the layers that a record calls new and that an expansion made. Raises as `expansions` does."""
    copied = {number for one in expansions(opened) for number in one}
    record = read_record(opened.path)
    return () if record is None else tuple(sorted(copied & {*record.new_layers}))


def vocabularies(opened: LoadedModel) -> tuple[VocabularyRecord, ...]:
    """Return every expansion of the vocabulary in a checkpoint's record, oldest first.

    Raises CheckpointError if the checkpoint does not have so many tokens.
    """
    record = read_record(opened.path)
    found = () if record is None else record.vocabularies
    if not all(0 < one.before <= one.after <= opened.program.spec.vocabulary for one in found):
        file = opened.path / RECORD
        raise CheckpointError(f"{file}: its vocabularies are not those of this model; remove the file")
    return found


def new_tokens(opened: LoadedModel) -> tuple[int, int] | tuple[()]:
    """Return the first id that a checkpoint's record calls new, and one past the last; empty if there are none."""
    record = read_record(opened.path)
    match () if record is None else record.new_tokens:
        case (first, end) if 0 <= first < end <= opened.program.spec.vocabulary:
            return (first, end)
        case _:
            return ()


def copies(record: PastRecord, before: int, after: int) -> tuple[int, ...]:
    """Return the layers that expansions added to a model of `after` layers whose source had `before`.

    Empty if the record does not explain the difference.
    """
    numbers = {number for one in record.expansions for number in one.layers if 0 <= number < after}
    return tuple(sorted(numbers)) if before + len(numbers) <= after else ()


def claim_of(record: PastRecord | None, promise: Promise, before: Spec, after: Spec) -> Claim:
    """Return the claim of a model by its record alone, against a source that may have fewer layers and tokens."""
    if record is None:
        return Claim(promise)
    tokens = _shared_tokens(record.vocabularies, before.vocabulary)
    return Claim(promise, copies=copies(record, before.depth, after.depth), tokens=tokens)


def _shared_tokens(grown: Iterable[VocabularyRecord], before: int) -> int | None:
    """Return the number of old tokens of the first expansion of a vocabulary of this size; None if there is none."""
    firsts = (one.new[0] for one in grown if one.before == before and one.new is not None)
    return next((first for first in firsts if 0 < first <= before), None)
