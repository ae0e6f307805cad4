"""The new tokens of an expanded tokenizer, and the old tokens that each of them consists of."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kept.checkpoint.nonfinite import first_not_finite
from kept.checkpoint.safetensors_header import read_header
from kept.errors import CheckpointError, InputError
from kept.passes.expand_vocabulary import GIVEN, MEAN, ZERO, Growth
from kept.tokenizer.bpe import read_tokenizer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kept.ir.tensors import Stored

PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")
"""Components of a tokenizer's file besides the model that affect encoding and decoding."""

WAY_OUT = "merge it anew with kept tokenizer merge"


def growth(old: Path, new: Path, rows: str = MEAN) -> Growth:
    """Return the tokens that the directory `new` has beyond `old`, and the embedding rows if `rows` is a file.

    Raises InputError if an old token is missing or has another id, if another component differs, or if no token is
    new.
    """
    before, after = (read_tokenizer(directory)[1] for directory in (old, new))
    had, has = before.vocabulary, after.vocabulary
    if not had:
        raise InputError(f"{old}: its tokenizer has no tokens; correct it first")
    lost = min((token for token in had if has.get(token) != had[token]), key=had.__getitem__, default=None)
    if lost is not None:
        found = f"id {has[lost]}" if lost in has else "none"
        raise InputError(f"{new}: gives {lost!r} {found}, {old} gives it id {had[lost]}; {WAY_OUT}")
    other = next((part for part in PARTS if before.document[part] != after.document[part]), None)
    if other is not None:
        raise InputError(f"{new}: has another {other} than {old}; {WAY_OUT}")
    first = max(had.values(), default=-1) + 1
    added = sorted(has.keys() - had.keys(), key=has.__getitem__)
    if not added:
        raise InputError(f"{new}: has the tokens of {old} and no more; there is nothing to grow by")
    ids = [has[token] for token in added]
    if ids != [*range(first, first + len(added))]:
        wrong = next(at for at, wanted in zip(ids, range(first, first + len(ids)), strict=True) if at != wanted)
        raise InputError(f"{new}: gives a new token id {wrong}, they must follow {first - 1} one by one; {WAY_OUT}")
    special = {token["content"] for token in after.document["added_tokens"]}
    # A new piece is split by the old BPE model alone, an added token by the whole old tokenizer.
    parts = tuple(map(tuple, before.parts(added, [token not in special for token in added])))
    return Growth(first, parts, None if rows in {MEAN, ZERO} else read_rows(Path(rows)))


def read_rows(file: Path) -> Mapping[str, Stored]:
    """Return the embedding rows of a safetensors file.

    Raises InputError if it is damaged, has other tensor names, or holds NaN or Inf.
    """
    try:
        found = dict(read_header(file))
    except CheckpointError as error:
        raise InputError(f"embedding_init: {error}; give {MEAN}, {ZERO} or a safetensors file") from None
    names = [*GIVEN.values()]
    odd = next((name for name in found if name not in names), None)
    if odd is not None or names[0] not in found:
        raise InputError(f"{file}: names {odd or 'no embedding'}; rows are called {', '.join(names)}")
    wrong = first_not_finite(found)
    if wrong is not None:
        raise InputError(f"{file}: {wrong[0]} has {wrong[2]}, which no model takes; make its rows anew")
    return found
