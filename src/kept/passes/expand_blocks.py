"""Block expansion: insert copies of layers with zero output."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, ClassVar, Literal, Self, get_args

from kept.errors import RecipeError
from kept.ir.slots import layer_slots, zero_output_weights
from kept.ir.tensors import Full
from kept.passes.affine_tail import has_tail
from kept.passes.base import NO_OPTION, Obstacle, Pass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.program import Program
    from kept.ir.spec import Spec
    from kept.ir.tensors import Lazy

Placement = Literal["interleaved", "prefix", "suffix"]


@dataclass(frozen=True)
class ExpandBlocks(Pass):
    """LLaMA Pro's block expansion (arXiv 2401.02415): insert copies of layers with zero output. EXACT, to the bit.

    A layer adds mixer(norm x) and mlp(norm x) to x. In a copy, the output projections of both are zero, with their
    biases, so the copy adds 0. Its other weights are those of the layer below: the first gradients reach the zeros,
    later ones all weights. A branch with a post-norm (Gemma 2, OLMo 2) keeps its projections, and the post-norm's gain
    and bias are zero instead. With zero projections, the post-norm would scale any small output up (its gradient is
    divided by sqrt(eps)), and the first step of AdamW would change the output by its full scale.

    `groups` splits the layers into that many groups of nearly equal size and appends copies of the top `blocks` layers
    to each. With `placement` prefix or suffix, as many copies of the first or last layers are put before or after all
    layers. `at` instead has the numbers of the copies in the result: consecutive copies copy as many layers below them
    (at the beginning: above them). Raises RecipeError for numbers that no model allows.

    A layer that `affine-tail` appended stays the last one and is not copied: behind it, the residual stream is nearly
    constant after a norm, and a copy could learn nothing. `tails` is the number of such layers, 0 or 1.
    """

    groups: int | None = None
    blocks: int = 1
    placement: Placement = "interleaved"
    at: tuple[int, ...] = ()
    tails: int = field(default=0, metadata=NO_OPTION)

    name: ClassVar[str] = "expand-blocks"
    summary: ClassVar[str] = "copies of layers with zero output are inserted"

    def __post_init__(self) -> None:
        """Check everything that does not depend on the model."""
        for key in ("groups", "blocks"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise RecipeError(f"is {value}, it must be at least 1", key)
        if self.placement not in get_args(Placement):
            raise RecipeError(f"is {self.placement!r}; it must be one of {', '.join(get_args(Placement))}", "placement")
        if self.groups is None and not self.at:
            raise RecipeError("is missing; give the number of groups, or at, the numbers of the new layers", "groups")
        if self.at and (self.groups is not None or self.blocks != 1 or self.placement != "interleaved"):
            raise RecipeError("names the new layers by itself; leave out groups, blocks and placement", "at")
        if [*self.at] != sorted({*self.at}) or any(number < 0 for number in self.at):
            raise RecipeError(f"is {listed(self.at)}; it must be layer numbers from 0 up, each once and in order", "at")

    def measured(self, program: Program) -> Self:
        """Return the pass with `tails` set. Reads a bias of the last layer."""
        return replace(self, tails=int(has_tail(program)))

    def sizes(self, depth: int) -> tuple[int, ...]:
        """Return the number of layers of each group; empty if `at` is given."""
        if self.groups is None:
            return ()
        depth -= self.tails
        ends = [depth * group // self.groups for group in range(self.groups + 1)]
        return tuple(end - begin for begin, end in pairwise(ends))

    def numbers(self, depth: int) -> tuple[int, ...]:
        """Return the numbers of the new layers in the result."""
        if self.groups is None:
            return self.at
        if self.placement != "interleaved":
            first = 0 if self.placement == "prefix" else depth - self.tails
            return tuple(range(first, first + self.groups * self.blocks))
        numbers: list[int] = []
        end = 0
        for size in self.sizes(depth):
            end += size + self.blocks
            numbers += range(end - self.blocks, end)
        return tuple(numbers)

    def source_layers(self, depth: int) -> tuple[int, ...]:
        """Return for each layer of the result the number of the source layer that has its weights."""
        out: list[int] = []
        below = 0
        for new, run in groupby(range(depth + len(self.numbers(depth))), self.numbers(depth).__contains__):
            count = len([*run])
            first = max(0, below - count) if new else below
            out += range(first, first + count)
            below += 0 if new else count
        return tuple(out)

    def origins(self, program: Program) -> tuple[int | None, ...]:
        """Return None for copies."""
        depth = program.spec.depth
        new = {*self.numbers(depth)}
        return tuple(None if number in new else source for number, source in enumerate(self.source_layers(depth)))

    def requires(self, program: Program) -> Obstacle | None:
        """Require groups with at least as many layers as are copied, and numbers within the result."""
        depth = program.spec.depth
        if self.groups is not None:
            return self._groups_obstacle(depth)
        last = depth + len(self.at) - 1
        if self.at[-1] > last:
            return Obstacle("at", f"is {self.at[-1]}, the result has layers 0 to {last}", way_out="give lower numbers")
        if self.at[-1] > last - self.tails:
            why = f"puts layer {last} behind the layer that holds the bias of the logits, where it could not learn"
            return Obstacle("at", why, way_out="give lower numbers")
        run, held = max(_runs(self.at, depth), key=lambda one: len(one[0]) - one[1])
        if len(run) <= held:
            return None
        why = f"{listed(run)} copy the {len(run)} layers beside them, and there are {held}"
        return Obstacle("at", why, way_out="give fewer in a run")

    def _groups_obstacle(self, depth: int) -> Obstacle | None:
        groups, layers = self.groups or 1, depth - self.tails
        if groups > layers:
            return Obstacle("groups", f"are {groups}, the model has {layers} layers", way_out=f"give at most {layers}")
        most, held = min(self.sizes(depth)), "the smallest group has"
        if self.placement != "interleaved":
            most, held = layers // groups, f"{groups} groups of the model's {layers} layers have"
        if self.blocks > most:
            return Obstacle("blocks", f"are {self.blocks}, {held} {most}", way_out=f"give at most {most}")
        return None

    def run(self, program: Program) -> Program:
        """Renumber all layers, and set the output of the copies to zero."""
        spec = program.spec
        sources = self.source_layers(spec.depth)
        layers = tuple(spec.layers[source] for source in sources)
        changed: dict[str, Lazy] = {}
        for number, (source, origin) in enumerate(zip(sources, self.origins(program), strict=True)):
            fills = zero_output_weights(spec.layers[source], spec.width) if origin is None else {}
            for name, _ in layer_slots(spec.layers[source], spec.width):
                old = program.weights[f"layers.{source}.{name}"]
                changed[f"layers.{number}.{name}"] = Full(old.shape, old.dtype, fills[name]) if name in fills else old
        return program.updated(replace(spec, layers=layers), changed)

    def ensures(self, spec: Spec) -> bool:
        """Return whether the result has the layers with the new numbers."""
        added = len(self.at) if self.groups is None else self.groups * self.blocks
        return max(self.numbers(spec.depth - added)) < spec.depth


def listed(numbers: tuple[int, ...]) -> str:
    """Return the numbers, separated by commas."""
    return ", ".join(map(str, numbers))


def _runs(at: tuple[int, ...], depth: int) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yield consecutive new numbers, with the number of layers that they can copy."""
    for _, run in groupby(enumerate(at), lambda item: item[1] - item[0]):
        places = [*run]
        numbers = tuple(number for _, number in places)
        below = numbers[0] - places[0][0]
        yield numbers, below or depth
