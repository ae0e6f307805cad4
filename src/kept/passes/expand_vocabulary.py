"""Vocabulary expansion: rows for tokens that the model did not have."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from kept.errors import RecipeError
from kept.ir.tensors import Means, cast, join, take_rows, zeros
from kept.passes.base import Obstacle, Pass
from kept.passes.fold_head_norm import FoldHeadNorm

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.ir.tensors import Lazy

MEAN, ZERO = "mean", "zero"
"""Ways to make rows; any other word is a file that has them."""

GIVEN = {"embedding.weight": "embedding", "head.weight": "head", "head.bias": "bias"}
"""The weights with a row for each token, and what such a file calls the new ones."""

LARGEST_MULTIPLE = 1 << 12
"""Beyond what any kernel asks for."""

SPREAD = 64
"""Old rows whose mean stands where there is no token."""


@dataclass(frozen=True)
class Growth:
    """The tokens that a tokenizer has beyond another: ids from `first` on, and of each the old ids that it is made of.

    `given` are rows that were handed over, by the names of `GIVEN`.
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
    """Rows of embedding and head for the new tokens of a tokenizer (Chinese-LLaMA, arXiv 2304.08177). EXACT.

    No old row changes, so that a text without new tokens has the stream, and each old token the logit, that it had. The
    row of a new token is the mean of the rows of the old tokens that its text was made of (`rows` mean), zero, or one
    of a file. New ids follow the tokenizer's, so that rows which padding left spare are taken first.

    `multiple` rounds the number of rows up. Those without a token are the mean of old rows from all over, and so is
    their logit: it is below the largest of these, and greedy decoding never takes one. `tokenizer` is a directory; what
    its tokens are made of is measured (`growth`).
    """

    tokenizer: str
    rows: str = MEAN
    multiple: int = 1
    growth: Growth | None = None

    name: ClassVar[str] = "expand-vocab"
    summary: ClassVar[str] = "embedding and head get rows for the new tokens of a tokenizer"

    def __post_init__(self) -> None:
        """Check what needs no model."""
        if not 1 <= self.multiple <= LARGEST_MULTIPLE:
            raise RecipeError(f"is {self.multiple}, it must be from 1 to {LARGEST_MULTIPLE}", "multiple")

    @property
    def grown(self) -> Growth:
        """What was measured."""
        assert self.growth is not None, "planning measures it"
        return self.growth

    def domain(self, program: Program) -> str:  # noqa: ARG002 - holds for any program
        """Return the token ids whose rows do not change."""
        return f"for text without new tokens, that is, token ids below {self.grown.first:,}"

    def size(self, vocabulary: int) -> int:
        """Rows of the result, where there were `vocabulary`."""
        return -(-max(vocabulary, self.grown.end) // self.multiple) * self.multiple

    def requires(self, program: Program) -> Obstacle | None:
        """A row for each old token; given rows of the right number and width."""
        spec, growth = program.spec, self.grown
        if growth.first > spec.vocabulary:
            why = f"has {spec.vocabulary} tokens, its own tokenizer gives id {growth.first - 1}"
            return Obstacle("the model", why, way_out="mend its tokenizer first")
        if spec.head.normalised and self._padding(spec.vocabulary):
            why = "divides its rows by their length, so that one without a token may be the likeliest"
            return Obstacle("head", why, FoldHeadNorm())
        wanted = {GIVEN[slot]: (len(growth.parts), *program.weights[slot].shape[1:]) for slot in self._slots(program)}
        for name, tensor in (growth.given or {}).items():
            if name not in wanted:
                return Obstacle(f"{self.rows}: {name}", "is no part of this model", way_out="leave it out")
            if tensor.shape != wanted[name]:
                why = f"has shape {[*tensor.shape]}, the new tokens need {[*wanted[name]]}"
                return Obstacle(f"{self.rows}: {name}", why, way_out="give a row for each of them")
        return None

    def run(self, program: Program) -> Program:
        """Put the new rows behind those of the old tokens."""
        spec = program.spec
        changed = {slot: self._tensor(slot, program.weights[slot]) for slot in self._slots(program)}
        centred = spec.centred and not self.grown.given
        return program.updated(replace(spec, vocabulary=self.size(spec.vocabulary), centred=centred), changed)

    def ensures(self, spec: Spec) -> bool:
        """There is a row for each token."""
        return spec.vocabulary >= self.grown.end and spec.vocabulary % self.multiple == 0

    def _slots(self, program: Program) -> Iterator[str]:
        return (slot for slot in GIVEN if slot in program.weights)

    def _padding(self, vocabulary: int) -> int:
        """Rows without a token that are made."""
        return self.size(vocabulary) - max(vocabulary, self.grown.end)

    def _tensor(self, slot: str, old: Lazy) -> Lazy:
        first, end, had = self.grown.first, self.grown.end, old.shape[0]
        spare = [take_rows(old, end, had)] if end < had else []
        spread = tuple(range(0, first, -(-first // SPREAD)))
        silent = Means((1, *old.shape[1:]), old.dtype, old, (spread,))
        return join([take_rows(old, 0, first), self._new(slot, old), *spare, *[silent] * self._padding(had)])

    def _new(self, slot: str, old: Lazy) -> Lazy:
        growth, shape = self.grown, (len(self.grown.parts), *old.shape[1:])
        given = (growth.given or {}).get(GIVEN[slot])
        if given is not None:
            return cast(given, old.dtype)
        return zeros(shape, old.dtype) if self.rows == ZERO else Means(shape, old.dtype, old, growth.parts)
