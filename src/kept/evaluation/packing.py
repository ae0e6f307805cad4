"""Pack token sequences with common prefixes into trees, so that a model computes each prefix once.

The choices of a question share its context, and the questions of a few-shot task share the examples. A tree is one row
of a batch: its tokens in depth-first order, and for each the end of its descendants (`SequenceContext.ends_BT`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

LARGEST = 2048
"""Maximum number of tokens in a tree of several sequences; the attention mask grows with its square."""

COST = 6
"""Cost of a token in the linear layers of a model, in multiples of width times the cost of attending to one key."""


@dataclass
class Tree:
    """Sequences in one row. `places` has, for each sequence number, the indices of its last tokens in the row."""

    tokens: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    places: dict[int, list[int]] = field(default_factory=dict)

    @property
    def branched(self) -> bool:
        """Whether it holds several sequences."""
        return len(self.places) > 1


class _Growing:
    """A tree to which sequences are added in lexicographic order. `path` has the indices of the last one's tokens."""

    def __init__(self) -> None:
        self.tree, self.path, self.last = Tree(), [], ()  # type: Tree, list[int], Sequence[int]

    def common(self, sequence: Sequence[int]) -> int:
        """Return the length of the prefix that a sequence shares with the last one."""
        pairs = enumerate(zip(self.last, sequence, strict=False))
        return next((n for n, (a, b) in pairs if a != b), min(len(self.last), len(sequence)))

    def add(self, number: int, sequence: Sequence[int], tail: int) -> None:
        """Add a sequence; its last `tail` tokens are noted in `places`."""
        shared, size = self.common(sequence), len(self.tree.tokens)
        for at in self.path[shared:]:
            self.tree.ends[at] = size
        new = sequence[shared:]
        self.path = [*self.path[:shared], *range(size, size + len(new))]
        self.tree.tokens += new
        self.tree.ends += [0] * len(new)
        self.tree.places[number] = self.path[-tail:]
        self.last = sequence

    def finished(self) -> Tree:
        """Return the tree with the ends of the last path."""
        for at in self.path:
            self.tree.ends[at] = len(self.tree.tokens)
        return self.tree


def trees(
    sequences: Sequence[Sequence[int]], tails: Sequence[int], width: int, largest: int = LARGEST
) -> Iterator[Tree]:
    """Yield trees of all sequences. `tails` has the number of last tokens of each whose outputs are needed.

    A sequence joins its predecessor's tree if this saves more in linear layers than attention to masked keys costs.
    """
    growing = _Growing()
    for number in sorted(range(len(sequences)), key=lambda number: tuple(sequences[number])):
        sequence = sequences[number]
        shared, size = growing.common(sequence), len(growing.tree.tokens)
        new = len(sequence) - shared
        if growing.tree.places and (size + new > largest or new * size > COST * width * shared):
            yield growing.finished()
            growing = _Growing()
        growing.add(number, sequence, tails[number])
    if growing.tree.places:
        yield growing.finished()
