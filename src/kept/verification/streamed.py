"""Run a program layer by layer, with a few rows of one matrix in memory at a time.

Shapes: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from kept.ir.stream_map import IDENTITY
from kept.nn.decoder import Block, finish
from kept.nn.mixers import tables_of
from kept.nn.model import fill
from kept.nn.norm import NormModule
from kept.nn.sequence import SequenceContext
from kept.verification.streamed_linear import StreamedLinear

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.program import Program
    from kept.ir.stream_map import StreamMap
    from kept.ir.tensors import Lazy, Precision


@dataclass(frozen=True)
class StreamedRun:
    """A program to be run with weights and activations in `dtype`.

    `copies` are layers that the other side of a comparison does not have; their inputs are not compared. `stream_map`
    maps the other side's residual stream to this program's.
    """

    program: Program
    dtype: torch.dtype
    copies: frozenset[int] = frozenset()
    stream_map: StreamMap = IDENTITY

    @property
    def precision(self) -> Precision:
        """The working precision in which weights are computed before they are rounded to `dtype`."""
        return "float64" if self.dtype == torch.float64 else "float32"

    @torch.inference_mode()
    def streams(self, tokens_BT: Tensor) -> Iterator[Tensor]:
        """Yield the residual stream (B, T, D) before the first layer and after each layer."""
        x_BTD, context = self.enter(tokens_BT)
        yield x_BTD
        for i in range(self.program.spec.depth):
            x_BTD = self.block(i)(x_BTD, context)
            yield x_BTD

    def enter(self, tokens_BT: Tensor) -> tuple[Tensor, SequenceContext]:
        """Return the input of the first layer, (B, T, D), and the context of all layers.

        Only the embeddings of these tokens are read.
        """
        context = SequenceContext.of(tokens_BT)
        x_BTD = self._rows("embedding.weight", tokens_BT) * self.program.spec.embedding_multiplier
        if self.program.spec.positions is not None:
            x_BTD = x_BTD + self._rows("positions.weight", context.positions_BT)
        return x_BTD, context.with_tables(tables_of(self.program.spec), x_BTD.dtype)

    def block(self, layer: int) -> Block:
        """Return one layer. Its norms are loaded; its projections stay in the file."""
        at = f"layers.{layer}."
        with torch.device("meta"):
            block = Block(self.program.spec.layers[layer], self.program.spec.width)
        for name, module in [*block.named_modules()]:
            if isinstance(module, nn.Linear):
                weights = self.program.weights
                both = weights[f"{at}{name}.weight"], weights.get(f"{at}{name}.bias")
                block.set_submodule(name, StreamedLinear(self.dtype, self.precision, *both))
        fill(block, self.program, at, self.dtype, self.precision)
        return block

    def read(self, tensor: Lazy) -> Tensor:
        """Return a whole tensor in `dtype`."""
        return tensor.value(self.precision).to(self.dtype)

    @torch.inference_mode()
    def logits(self, x_TD: Tensor) -> Tensor:
        """Apply final norm and head to (T, D); return logits (T, V)."""
        spec, weights = self.program.spec.head, self.program.weights
        weight = weights["embedding.weight" if spec.tied else "head.weight"]
        head = StreamedLinear(self.dtype, self.precision, weight, weights.get("head.bias"), normalised=spec.normalised)
        return finish(head(self.final_norm()(x_TD)), spec)

    def final_norm(self) -> NormModule:
        """Return the final norm with its weights."""
        with torch.device("meta"):
            norm = NormModule(self.program.spec.final_norm, (self.program.spec.width,))
        fill(norm, self.program, "final_norm.", self.dtype, self.precision)
        return norm

    def _rows(self, name: str, ids_BT: Tensor) -> Tensor:
        table: Lazy = self.program.weights[name]
        unique, places = torch.unique(ids_BT, return_inverse=True)
        if not table.by_rows:
            return self.read(table)[ids_BT]
        read = table.reader(self.precision)
        rows = torch.cat([read(i, i + 1) for i in unique.tolist()])
        return rows.to(self.dtype)[places]
