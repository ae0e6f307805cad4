"""Vocabulary expansion: rows of embedding and head for new tokens."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

from kept.errors import RecipeError
from kept.ir.tensors import Means, cast, join, take_rows, zeros
from kept.passes.base import NO_OPTION, PATH, Obstacle, Pass
from kept.passes.fold_head_norm import FoldHeadNorm

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.ir.tensors import Lazy

MEAN, ZERO = "mean", "zero"
"""Initialisations of new rows; any other value is a file with rows."""

GIVEN = {"embedding.weight": "embedding", "head.weight": "head", "head.bias": "bias"}
"""The weights with a row for each token, and the names of their new rows in such a file."""

LARGEST_MULTIPLE = 1 << 12
"""Larger than the multiple that any kernel needs."""

SPREAD = 64
"""Number of old rows whose mean fills rows without a token."""


@dataclass(frozen=True)
class Growth:
    """The new tokens of a tokenizer: ids from `first` on, and for each the old token ids of its text.

    `given` has rows from a file, by the names of `GIVEN`.
    """

    first: int
    parts: tuple[tuple[int, ...], ...]
    given: Mapping[str, Lazy] | None = None

    @property
    def end(self) -> int:
        """One past the last id."""
        return self.first + len(self.parts)


@dataclass(frozen=True)
class ExpandVocabulary(Pass):
    """Add rows of embedding and head for the new tokens of a tokenizer (Chinese-LLaMA, arXiv 2304.08177). EXACT.

    Old rows do not change: for text without new tokens, the residual stream and the logits of old tokens stay the same.
    The row of a new token is the mean of the rows of the old tokens of its text (`embedding_init` mean), zero, or a row
    of a file. New ids follow the tokenizer's last id, so spare rows of padding are used first.

    `pad_to_multiple_of` rounds the number of rows up. Rows without a token are the mean of old rows, so their logit is
    the mean of these rows' logits: it is below the largest, and greedy decoding never picks it. `tokenizer` is a
    directory; planning finds the old tokens of its new tokens (`growth`).
    """

    tokenizer: str = field(metadata=PATH)
    embedding_init: str = field(default=MEAN, metadata=PATH)
    pad_to_multiple_of: int = 1
    growth: Growth | None = field(default=None, metadata=NO_OPTION)

    name: ClassVar[str] = "expand-vocab"
    summary: ClassVar[str] = "embedding and head get rows for the new tokens of a tokenizer"

    def __post_init__(self) -> None:
        """Check everything that does not depend on the model."""
        if not 1 <= self.pad_to_multiple_of <= LARGEST_MULTIPLE:
            raise RecipeError(
                f"is {self.pad_to_multiple_of}, it must be from 1 to {LARGEST_MULTIPLE}", "pad_to_multiple_of"
            )

    @property
    def grown(self) -> Growth:
        """The measured growth."""
        assert self.growth is not None, "planning measures it"
        return self.growth

    def domain(self, program: Program) -> str:  # noqa: ARG002 - holds for any program
        """Return the token ids whose rows do not change."""
        return f"for text without new tokens, that is, token ids below {self.grown.first:,}"

    def size(self, vocabulary: int) -> int:
        """Return the number of rows of the result, from that of the program."""
        return -(-max(vocabulary, self.grown.end) // self.pad_to_multiple_of) * self.pad_to_multiple_of

    def requires(self, program: Program) -> Obstacle | None:
        """Require a row for each old token, and given rows of the right number and width."""
        spec, growth = program.spec, self.grown
        if growth.first > spec.vocabulary:
            why = f"has {spec.vocabulary} tokens, its own tokenizer gives id {growth.first - 1}"
            return Obstacle("the model", why, way_out="correct its tokenizer first")
        if spec.head.normalised and self._padding(spec.vocabulary):
            why = "divides its rows by their length, so that one without a token may be the likeliest"
            return Obstacle("head", why, FoldHeadNorm())
        wanted = {GIVEN[slot]: (len(growth.parts), *program.weights[slot].shape[1:]) for slot in self._slots(program)}
        for name, tensor in (growth.given or {}).items():
            if name not in wanted:
                return Obstacle(f"{self.embedding_init}: {name}", "is not a part of this model", way_out="leave it out")
            if tensor.shape != wanted[name]:
                why = f"has shape {[*tensor.shape]}, the new tokens need {[*wanted[name]]}"
                return Obstacle(f"{self.embedding_init}: {name}", why, way_out="give a row for each of them")
        return None

    def run(self, program: Program) -> Program:
        """Put the new rows after those of the old tokens."""
        spec = program.spec
        changed = {slot: self._tensor(slot, program.weights[slot]) for slot in self._slots(program)}
        centred = spec.centred and not self.grown.given
        return program.updated(replace(spec, vocabulary=self.size(spec.vocabulary), centred=centred), changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether there is a row for each token."""
        return spec.vocabulary >= self.grown.end and spec.vocabulary % self.pad_to_multiple_of == 0

    def _slots(self, program: Program) -> Iterator[str]:
        return (slot for slot in GIVEN if slot in program.weights)

    def _padding(self, vocabulary: int) -> int:
        """Return the number of added rows without a token."""
        return self.size(vocabulary) - max(vocabulary, self.grown.end)

    def _tensor(self, slot: str, old: Lazy) -> Lazy:
        first, end, had = self.grown.first, self.grown.end, old.shape[0]
        spare = [take_rows(old, end, had)] if end < had else []
        spread = tuple(range(0, first, -(-first // SPREAD)))
        mean_row = Means((1, *old.shape[1:]), old.dtype, old, (spread,))
        return join([take_rows(old, 0, first), self._new(slot, old), *spare, *[mean_row] * self._padding(had)])

    def _new(self, slot: str, old: Lazy) -> Lazy:
        growth, shape = self.grown, (len(self.grown.parts), *old.shape[1:])
        given = (growth.given or {}).get(GIVEN[slot])
        if given is not None:
            return cast(given, old.dtype)
        return zeros(shape, old.dtype) if self.embedding_init == ZERO else Means(shape, old.dtype, old, growth.parts)
