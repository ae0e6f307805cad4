"""Colours, textures and sizes of the operations in a picture of layers, from what the operations say of themselves.

A kind of operation has a colour, a form of it (as `describe` says) a texture. Boxes are filled by the size of the
operation: of a mixer its decoding state, of an MLP its parameters. So a new kind of operation needs nothing here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from kept.ir.spec import Mixer
from kept.pages.blocks import LayerBox, LayerStyle

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from kept.ir.spec import Operation, Spec

    Look = tuple[str, str]
    """Branch and description of an operation."""

MIXERS = {"latent": "attention"}
"""Kinds of mixers that are called otherwise than by the kind's name."""

DISTINGUISHED = 4
"""Maximum number of kinds in a branch, and of forms of a kind, that are told apart."""


@dataclass(frozen=True)
class LayerStyles:
    """The styles of all operations of two models. `sizes`: of each operation. `context`: tokens of a mixer's state.

    `mixer`: what the mixers are called: by their kind if all are of one.
    """

    styles: Mapping[Look, LayerStyle]
    sizes: Mapping[Look, int]
    legend: tuple[tuple[str, LayerStyle], ...]
    context: int
    mixer: str

    @classmethod
    def of(cls, before: Spec, after: Spec) -> LayerStyles:
        """Return the styles of two models' operations; both states are those at the context after."""
        styles: dict[Look, LayerStyle] = {}
        legend: list[tuple[str, LayerStyle]] = []
        sizes: dict[Look, int] = {}
        for branch in ("mixer", "mlp"):
            found = [(one, spec.width) for spec in (before, after) for one in _operations(spec, branch)]
            sizes |= {(branch, one.describe()): _size(one, width, after.context) for one, width in found}
            for colour, forms in enumerate(_kinds(one for one, _ in found)):
                looks = _looks(branch, colour, forms)
                styles |= {(branch, form): style for form, (_, style) in zip(forms, looks, strict=True)}
                legend += dict.fromkeys(looks)
        kinds = {one.KIND for spec in (before, after) for one in _operations(spec, "mixer")}
        names = {MIXERS.get(kind, kind) for kind in kinds}
        return cls(styles, sizes, tuple(legend), after.context, names.pop() if len(names) == 1 else "mixer")

    def box(self, branch: str, operation: Operation | None) -> LayerBox | None:
        """Return the box of an operation; None if the branch is absent."""
        if operation is None:
            return None
        look = (branch, operation.describe())
        return LayerBox(self.styles[look], self.sizes[look] / max(1, self._largest(branch)))

    @property
    def scale(self) -> str:
        """A sentence that explains the filled part of the boxes; empty if all operations have the same size."""
        said = [
            f"{words} (at most {self._largest(branch):,})"
            for branch, words in (
                ("mixer", f"the decoding state of its {self.mixer} after {self.context:,} tokens, in numbers"),
                ("mlp", "the parameters of its MLP"),
            )
            if len({size for (own, _), size in self.sizes.items() if own == branch}) > 1
        ]
        return f" The filled part of a box is {' and '.join(said)}." if said else ""

    def _largest(self, branch: str) -> int:
        return max((size for (own, _), size in self.sizes.items() if own == branch), default=0)


def _operations(spec: Spec, branch: str) -> Iterator[Operation]:
    return (one.op for _, one in spec.branches() if one.name == branch)


def _size(operation: Operation, width: int, context: int) -> int:
    """Return the elements of a mixer's decoding state, or the parameters of another operation."""
    if isinstance(operation, Mixer):
        return sum(part.elements(context) for part in operation.state())
    return sum(math.prod(slot.shape) for _, slot in operation.slots(width))


def _kinds(operations: Iterable[Operation]) -> list[list[str]]:
    """Return the forms of each kind, in the order in which they occur."""
    forms: dict[str, dict[str, None]] = {}
    for one in operations:
        forms.setdefault(one.KIND, {})[one.describe()] = None
    return [[*found] for found in forms.values()]


def _looks(branch: str, colour: int, forms: Sequence[str]) -> list[tuple[str, LayerStyle]]:
    """Return name and style of each form; one for all if there are too many."""
    turn, colour = divmod(colour, DISTINGUISHED)  # more kinds than colours begin with another texture
    styles = [LayerStyle(branch, colour, (turn + n) % DISTINGUISHED) for n in range(DISTINGUISHED)]
    if len(forms) <= DISTINGUISHED:
        return [*zip(forms, styles, strict=False)]
    return [(f"{_common(forms)}, in {len(forms)} forms", styles[0])] * len(forms)


def _common(forms: Sequence[str]) -> str:
    """Return what descriptions have in common, word by word: `gated silu MLP …`."""
    columns = zip(*(form.split() for form in forms), strict=False)
    words = [column[0] if len({*column}) == 1 else "…" for column in columns]
    return " ".join(word for word, _ in groupby(words))
