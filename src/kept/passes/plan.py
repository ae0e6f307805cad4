"""A plan: the passes of a conversion in order, their result, and the origin of its layers and weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING

from kept.ir.promise import Claim, Promise
from kept.ir.slots import slots
from kept.ir.stream_map import IDENTITY, StreamMap
from kept.passes.base import LengthLimit
from kept.passes.expand_blocks import ExpandBlocks
from kept.passes.expand_vocabulary import ExpandVocabulary
from kept.summary import Summarised

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.passes.base import Pass


@dataclass(frozen=True)
class PassStep:
    """A pass of a plan, with everything that it states about the program before it (see `Pass`).

    `layers`, `parameters` and `nbytes` are differences.
    """

    rewrite: Pass
    promise: Promise
    origins: tuple[int | None, ...]
    layers: int
    parameters: int
    nbytes: int
    domain: str | LengthLimit | None = None
    rewritten: frozenset[str] = frozenset()
    reused: frozenset[str] = frozenset()
    stream: StreamMap = IDENTITY

    @classmethod
    def of(cls, rewrite: Pass, before: Program, after: Program) -> PassStep:
        """Return the step of a pass that made `after` from `before`."""
        origins = rewrite.origins(before)
        assert len(origins) == after.spec.depth, f"{rewrite.name}: {len(origins)} origins, {after.spec.depth} layers"
        return cls(
            rewrite,
            rewrite.promise(before),
            origins,
            layers=after.spec.depth - before.spec.depth,
            parameters=after.parameters - before.parameters,
            nbytes=after.nbytes - before.nbytes,
            domain=rewrite.domain(before),
            rewritten=rewrite.rewritten(before),
            reused=rewrite.reused(before),
            stream=rewrite.stream(before),
        )


@dataclass(frozen=True)
class Expansion:
    """The layers that one `expand-blocks` added, and the layer that each is a copy of, in the result's numbers.

    Layers that a later pass removed are left out; a copy of a removed layer is a copy of None. `sizes` are those of the
    groups, empty without groups.
    """

    layers: tuple[int, ...]
    copies_of: tuple[int | None, ...]
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, repr=False)
class Plan(Summarised):
    """The passes of a conversion, in order, and the program that they make.

    `between` states where any promise between the two families holds (`families.lengths.domain`). `target` is the name
    of the target family, empty for a plan without one.
    """

    steps: tuple[PassStep, ...]
    program: Program
    between: tuple[str, ...] = ()
    target: str = ""

    @property
    def promise(self) -> Promise:
        """The weakest promise of all steps."""
        return max((step.promise for step in self.steps), key=lambda promise: promise.rank, default=Promise.EXACT)

    @property
    def domain(self) -> tuple[str, ...]:
        """Return where the promise holds, as phrases that complete "the promise holds"; empty for everywhere.

        Of the steps' limits on the length, the first of the shortest implies the others.
        """
        found = [step.domain for step in self.steps if step.domain is not None]
        limits = [one for one in found if isinstance(one, LengthLimit)]
        shortest = min(limits, key=lambda limit: limit.tokens, default=None)
        stated = (str(one) for one in found if isinstance(one, str) or one is shortest)
        return tuple(dict.fromkeys((*self.between, *stated)))

    @property
    def origins(self) -> tuple[int | None, ...]:
        """For each layer of the result the number that it had before all steps; None for a new one."""
        return self._origins(self.steps)

    @property
    def layer_origins(self) -> tuple[int | str, ...]:
        """Return for each layer of the result its number before all steps, or the name of the pass that made it."""
        now: tuple[int | str, ...] = tuple(range(self.program.spec.depth))
        for step in reversed(self.steps):
            before = [step.rewrite.name if origin is None else origin for origin in step.origins]
            now = tuple(before[one] if isinstance(one, int) else one for one in now)
        return now

    @property
    def new_layers(self) -> tuple[int, ...]:
        """The layers of the result that some step made."""
        return tuple(number for number, origin in enumerate(self.origins) if origin is None)

    @property
    def expansions(self) -> tuple[Expansion, ...]:
        """The layers that each block expansion added, as far as the result still has them."""
        return tuple(self._expansions())

    @property
    def dropped(self) -> tuple[int, ...]:
        """The layers of the source that the result does not have."""
        depth = self.program.spec.depth - sum(step.layers for step in self.steps)
        return tuple(sorted({*range(depth)} - {*self.origins}))

    @property
    def claim(self) -> Claim:
        """The claim that the result is verified against."""
        program, shared = self.program if self.promise is Promise.EXACT else None, self.new_tokens
        tokens = shared.start if shared else None
        return Claim(self.promise, program, self.copies, self.dropped, tokens, self.domain, self.stream)

    @property
    def stream(self) -> StreamMap:
        """The map from the source's residual stream to the result's."""
        return reduce(StreamMap.then, (step.stream for step in self.steps), IDENTITY)

    @property
    def rewritten(self) -> frozenset[str]:
        """The weights of the result whose values a step initialised anew under a name that was there before."""
        return self._in_result(lambda step: step.rewritten)

    @property
    def reused(self) -> frozenset[str]:
        """The weights of the result that a step computed from the weights before it, under a new name."""
        return self._in_result(lambda step: step.reused)

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
    def suppressed_tokens(self) -> range:
        """Return the ids of the padding rows after the last new token, which must never be generated."""
        return range(self.new_tokens.stop, self.program.spec.vocabulary) if self.new_tokens else range(0)

    @property
    def copies(self) -> tuple[int, ...]:
        """The new layers that add nothing."""
        return tuple(sorted(number for one in self.expansions for number in one.layers))

    def _in_result(self, names: Callable[[PassStep], frozenset[str]]) -> frozenset[str]:
        """Return the names that the steps state, as far as the result has them, in its numbers of layers."""
        now: frozenset[str] = frozenset()
        for step in self.steps:
            numbers = {origin: number for number, origin in enumerate(step.origins) if origin is not None}
            moved_names = (_renumbered(name, numbers) for name in now)
            now = frozenset(name for name in moved_names if name is not None) | names(step)
        return now & {*self.program.weights}

    def _expansions(self) -> Iterator[Expansion]:
        for place, step in enumerate(self.steps):
            if isinstance(step.rewrite, ExpandBlocks):
                now = self._origins(self.steps[place + 1 :])
                depth = len(step.origins) - step.layers
                sources = step.rewrite.source_layers(depth)
                copied = {number: step.origins.index(sources[number]) for number in step.rewrite.numbers(depth)}
                left = moved(copied, now)
                if left:
                    yield Expansion(tuple(left), tuple(left.values()), step.rewrite.sizes(depth))

    def _origins(self, steps: Sequence[PassStep]) -> tuple[int | None, ...]:
        """Return the numbers of the result's layers before the last `steps`."""
        now: tuple[int | None, ...] = tuple(range(self.program.spec.depth))
        for step in reversed(steps):
            now = tuple(None if number is None else step.origins[number] for number in now)
        return now

    def summary(self) -> dict[str, str]:
        """Return the passes and the promise."""
        names = ", ".join(step.rewrite.name for step in self.steps) or "none"
        return {"target": self.target or "none", "passes": names, "promise": str(self.promise)}


def moved(copied: Mapping[int, int | None], origins: Sequence[int | None]) -> dict[int, int | None]:
    """New layers and what each is a copy of, in the numbers of a result whose layers have these origins.

    A layer that the result does not have any more is left out; a copy whose model went is a copy of None.
    """
    now = {origin: number for number, origin in enumerate(origins) if origin is not None}
    return {now[new]: None if old is None else now.get(old) for new, old in copied.items() if new in now}


def created(before: Spec, plan: Plan, carried: Collection[int] = ()) -> list[str]:
    """Return the new weights of a plan's result: those that its source, with the spec `before`, does not have.

    Weights with newly initialised values are new too, whatever their names; reused ones of an old layer are not.
    `carried` are layers of the result that
    were new in the source already.
    """
    had, again, reused = slots(before), plan.rewritten, plan.reused
    origins = {n: None if n in carried else origin for n, origin in enumerate(plan.origins)}
    now = {name: _renumbered(name, origins) for name in slots(plan.program.spec)}
    old = {name for name, was in now.items() if was in had or (was is not None and name in reused)}
    return [name for name in now if name in again or name not in old]


def _renumbered(name: str, numbers: Mapping[int, int | None]) -> str | None:
    """Return a weight's name after its layer got another number; None if the layer has none."""
    layers, _, rest = name.partition(".")
    if layers != "layers":
        return name
    number, _, inside = rest.partition(".")
    new = numbers.get(int(number))
    return None if new is None else f"layers.{new}.{inside}"
