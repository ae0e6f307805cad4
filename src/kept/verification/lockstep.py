"""Programs that run in lockstep, one layer at a time. What two programs have in common is run once.

A layer that is equal to a layer of another run, and gets the same input to the bit, has the same output to the bit.
Shapes: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from kept.verification.equal_parts import EqualParts

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from kept.verification.streamed import StreamedRun

NOTHING = EqualParts()


class Lane:
    """One run among several in lockstep: its residual stream `x_BTD` before layer `place`.

    Layers that the other side of the comparison does not have (`run.copies`) are passed within a step. `twin` is a lane
    on the same tokens and in the same dtype that moves first; `equal` states which parts of this program it runs too.
    `progress` is called with each layer that is done, run or shared.
    """

    def __init__(
        self,
        run: StreamedRun,
        tokens_BT: Tensor,
        twin: Lane | None = None,
        equal: EqualParts = NOTHING,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.run, self.tokens_BT, self.twin, self.progress = run, tokens_BT, twin, progress
        self.equal = NOTHING if twin is None else equal
        self.depth, self.place = run.program.spec.depth, 0
        self.ran: dict[int, tuple[Tensor, Tensor]] = {}
        self.x_BTD, self.context = run.enter(tokens_BT)
        if twin is not None and self.equal.embedding:
            self.x_BTD = twin.x_BTD
        self._pass_copies()

    @property
    def steps(self) -> int:
        """Number of layers that are compared."""
        return self.depth - len(self.run.copies)

    def step(self) -> None:
        """Run the next layer that is compared, and the copies behind it."""
        self.ran.clear()
        self._layer()
        self._pass_copies()

    def finish(self) -> None:
        """Run all layers that are left."""
        while self.place < self.depth:
            self.step()

    def logits(self, row: int) -> Tensor:
        """Return the logits of a row of tokens, (T, V)."""
        return self.run.logits(self.x_BTD[row])

    @property
    def has_twin_s_logits(self) -> bool:
        """Whether stream and head are the twin's, and so the logits of the tokens that both have."""
        return self.twin is not None and self.equal.head and self.x_BTD is self.twin.x_BTD

    def _pass_copies(self) -> None:
        while self.place < self.depth and self.place in self.run.copies:
            self._layer()

    def _layer(self) -> None:
        x_BTD, other = self.x_BTD, self.equal.layers.get(self.place)
        shared = None if self.twin is None or other is None else self.twin.ran.get(other)
        if shared is not None and _is_same(x_BTD, shared[0]):
            out_BTD = shared[1]
        else:
            out_BTD = self.run.block(self.place)(x_BTD, self.context)
            if torch.equal(out_BTD, x_BTD):  # the layer added nothing: the stream is still the twin's
                out_BTD = x_BTD
        self.ran[self.place] = x_BTD, out_BTD
        self.x_BTD, self.place = out_BTD, self.place + 1
        if self.progress is not None:
            self.progress(1)


def _is_same(one_BTD: Tensor, other_BTD: Tensor) -> bool:
    return one_BTD is other_BTD or torch.equal(one_BTD, other_BTD)
