"""Running a program layer by layer: one layer's weights in memory at a time, whatever the model's size.

Shapes: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kept.nn.attention import Positions
from kept.nn.model import Block, fill, project
from kept.nn.norm import Norm

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir.program import Program
    from kept.ir.tensors import Lazy, Precision

HEAD_ELEMENTS = 32 << 20
"""Elements of the head held at a time."""


@dataclass(frozen=True)
class Run:
    """A program to be run with weights and activations in `dtype`."""

    program: Program
    dtype: torch.dtype

    @property
    def precision(self) -> Precision:
        """The working precision in which weights are computed before they are rounded to `dtype`."""
        return "float64" if self.dtype == torch.float64 else "float32"

    @torch.inference_mode()
    def streams(self, tokens_BT: Tensor) -> Iterator[Tensor]:
        """The residual stream before the first layer and after each, (B, T, D)."""
        where = Positions.of(tokens_BT)
        x_BTD = self.embed(tokens_BT, where)
        yield x_BTD
        for i in range(self.program.spec.depth):
            x_BTD = self.block(i)(x_BTD, where)
            yield x_BTD

    def embed(self, tokens_BT: Tensor, where: Positions) -> Tensor:
        """What enters the first layer; only the rows of these tokens are read."""
        x_BTD = self._rows("embedding.weight", tokens_BT) * self.program.spec.embedding_multiplier
        if self.program.spec.positions is not None:
            x_BTD = x_BTD + self._rows("positions.weight", where.ids_BT)
        return x_BTD

    def block(self, layer: int) -> Block:
        """One layer with its weights."""
        with torch.device("meta"):
            block = Block(self.program.spec.layers[layer], self.program.spec.width)
        fill(block, self.program, f"layers.{layer}.", self.dtype, self.precision)
        return block

    @torch.inference_mode()
    def logits(self, x_TD: Tensor) -> Tensor:
        """Final norm and head for (T, D), the head a block of rows at a time; returns (T, V)."""
        normed_TD = self.final_norm()(x_TD)
        head = self.program.weights["embedding.weight" if self.program.spec.head.tied else "head.weight"]
        step = max(1, HEAD_ELEMENTS // head.shape[1]) if head.by_rows else head.shape[0]
        bias = self.program.weights.get("head.bias")
        bias_V = None if bias is None else bias.value(self.precision).to(self.dtype)
        parts = []
        for start in range(0, head.shape[0], step):
            stop = min(head.shape[0], start + step)
            rows = head.rows(start, stop, self.precision).to(self.dtype)
            parts.append(
                project(normed_TD, rows, None if bias_V is None else bias_V[start:stop], self.program.spec.head)
            )
        return torch.cat(parts, dim=-1)

    def final_norm(self) -> Norm:
        """The last norm with its weights."""
        with torch.device("meta"):
            norm = Norm(self.program.spec.final_norm, (self.program.spec.width,))
        fill(norm, self.program, "final_norm.", self.dtype, self.precision)
        return norm

    def _rows(self, name: str, ids_BT: Tensor) -> Tensor:
        table: Lazy = self.program.weights[name]
        unique, places = torch.unique(ids_BT, return_inverse=True)
        if not table.by_rows:
            return table.value(self.precision).to(self.dtype)[ids_BT]
        rows = torch.cat([table.rows(i, i + 1, self.precision) for i in unique.tolist()])
        return rows.to(self.dtype)[places]
