"""Run a model on calibration text one layer at a time, for whoever reads inputs and outputs of its branches.

Shapes: B batch, T tokens, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from kept.nn.decoder import Block
from kept.nn.model import fill
from kept.verification.streamed import StreamedRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from kept.ir.program import Program
    from kept.nn.decoder import BranchRun

ROWS = 4
"""Rows of tokens that run together. A constant, because rounding depends on it."""


@dataclass(frozen=True)
class Calibration:
    """A model and the tokens (B, T) to run it on, in float32.

    In memory: one layer, the residual stream of all tokens, and the activations of `ROWS` rows.
    """

    program: Program
    tokens_BT: Tensor

    @property
    def batches(self) -> int:
        """Parts in which every layer runs."""
        return -(-len(self.tokens_BT) // ROWS)

    def layers(
        self, advance: Callable[[int], None] | None = None
    ) -> Iterator[tuple[int, Iterator[Sequence[BranchRun]]]]:
        """Yield each layer's number and its runs, to be read before the next layer.

        The runs of a layer are those of its branches for one batch of rows after another. `advance` is called with 1
        for each layer that is done.
        """
        run = StreamedRun(self.program, torch.float32)
        streams = [run.enter(rows_BT) for rows_BT in self.tokens_BT.split(ROWS)]
        for layer in range(self.program.spec.depth):
            block = _loaded(self.program, layer)
            after = [x_BTD for x_BTD, _ in streams]
            yield layer, _runs(block, streams, after)
            streams = [(x_BTD, context) for x_BTD, (_, context) in zip(after, streams, strict=True)]
            if advance is not None:
                advance(1)


def _runs(block: Block, streams: Sequence[tuple[Tensor, object]], after: list[Tensor]) -> Iterator[Sequence[BranchRun]]:
    for at, (x_BTD, context) in enumerate(streams):
        with torch.inference_mode():
            runs = [*block.runs(x_BTD, context)]  # type: ignore[arg-type]  # the context of `StreamedRun.enter`
        after[at] = runs[-1].after_BTD if runs else x_BTD
        yield runs


def _loaded(program: Program, layer: int) -> Block:
    """Return a layer with its weights in float32."""
    with torch.device("meta"):
        block = Block(program.spec.layers[layer], program.spec.width)
    fill(block, program, f"layers.{layer}.", torch.float32, "float32")
    return block
