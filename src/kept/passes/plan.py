"""A plan: the passes of a conversion in order, what they make, and where each layer and weight of it comes from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kept.ir.slots import slots
from kept.passes.base import Pass, Promise
from kept.passes.expand import ExpandBlocks
from kept.passes.vocabulary import ExpandVocabulary

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kept.ir.program import Program
    from kept.ir.spec import Spec


@dataclass(frozen=True)
class Step:
    """A pass of a plan: its promise on this program, where its layers were before, and what it changes.

    `origins` has for each layer behind the pass the number that it had before, None for a new one; `layers`,
    `parameters` and `nbytes` are changes.
    """

    rewrite: Pass
    promise: Promise
    origins: tuple[int | None, ...]
    layers: int
    parameters: int
    nbytes: int


@dataclass(frozen=True)
class Expansion:
    """What one pass `expand-blocks` made: new layers, and of each the layer that it is a copy of.

    Both in the numbers of the plan's result. `sizes` are those of the groups, where there were any.
    """

    layers: tuple[int, ...]
    copies_of: tuple[int, ...]
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Claim:
    """What an output is held to: a promise, its program before rounding where that is to be proved, and its copies.

    `tokens` are as many of the first as source and output share; None where they have the same.
    """

    promise: Promise = Promise.EXACT
    program: Program | None = None
    copies: tuple[int, ...] = ()
    tokens: int | None = None


@dataclass(frozen=True)
class Plan:
    """The passes that were found, in order, and the program that they make."""

    steps: tuple[Step, ...]
    program: Program

    @property
    def promise(self) -> Promise:
        """The weakest promise of all steps."""
        return max((step.promise for step in self.steps), key=lambda promise: promise.rank, default=Promise.EXACT)

    @property
    def origins(self) -> tuple[int | None, ...]:
        """For each layer of the result the number that it had before all steps; None for a new one."""
        return self._origins(self.steps)

    @property
    def new_layers(self) -> tuple[int, ...]:
        """The layers of the result that some step made."""
        return tuple(number for number, origin in enumerate(self.origins) if origin is None)

    @property
    def expansions(self) -> tuple[Expansion, ...]:
        """What each block expansion made."""
        return tuple(self._expansions())

    @property
    def claim(self) -> Claim:
        """What the result is held to."""
        shared = self.new_tokens.start if self.new_tokens else None
        return Claim(self.promise, self.program if self.promise is Promise.EXACT else None, self.copies, shared)

    @property
    def vocabularies(self) -> tuple[ExpandVocabulary, ...]:
        """The passes that added tokens."""
        return tuple(step.rewrite for step in self.steps if isinstance(step.rewrite, ExpandVocabulary))

    @property
    def new_tokens(self) -> range:
        """The ids of the result that some step made."""
        grown = [one.grown for one in self.vocabularies]
        return range(grown[0].first, grown[-1].end) if grown else range(0)

    @property
    def silent(self) -> range:
        """Rows behind the last new token, which are none."""
        return range(self.new_tokens.stop, self.program.spec.vocabulary) if self.new_tokens else range(0)

    @property
    def copies(self) -> tuple[int, ...]:
        """The new layers that add nothing."""
        return tuple(sorted(number for one in self.expansions for number in one.layers))

    def _expansions(self) -> Iterator[Expansion]:
        for place, step in enumerate(self.steps):
            if isinstance(step.rewrite, ExpandBlocks):
                now = self._origins(self.steps[place + 1 :])
                depth = len(step.origins) - step.layers
                new, models = step.rewrite.numbers(depth), step.rewrite.models(depth)
                copied = (step.origins.index(models[number]) for number in new)
                layers, copies_of = (tuple(map(now.index, numbers)) for numbers in (new, copied))
                yield Expansion(layers, copies_of, step.rewrite.sizes(depth))

    def _origins(self, steps: Sequence[Step]) -> tuple[int | None, ...]:
        """Where the result's layers were before the last `steps`."""
        now: tuple[int | None, ...] = tuple(range(self.program.spec.depth))
        for step in reversed(steps):
            now = tuple(None if number is None else step.origins[number] for number in now)
        return now


def created(before: Spec, plan: Plan) -> list[str]:
    """The weights of a plan's result that its source, whose spec was `before`, has under no number of their layer."""
    had, origins = slots(before), plan.origins
    return [name for name in slots(plan.program.spec) if _before(name, origins) not in had]


def _before(name: str, origins: tuple[int | None, ...]) -> str:
    """What a weight was called when its layer had another number; a new layer's number is None."""
    layers, _, rest = name.partition(".")
    if layers != "layers":
        return name
    number, _, inside = rest.partition(".")
    return f"layers.{origins[int(number)]}.{inside}"
