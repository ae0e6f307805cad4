"""The universal decoder: runs any spec, and its parameter names are the spec's slots.

What the families differ in is data (norm kinds, biases, head counts, rotations, gating, parallel residuals); the
control flow below is all there is. Shapes: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.ir.tensors import torch_dtype, working_precision
from kept.nn.mixers import mixer_module
from kept.nn.mixers.attention import SequenceContext
from kept.nn.mlp import MlpModule
from kept.nn.norm import NormModule

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir import spec as ir
    from kept.ir.program import Program
    from kept.ir.tensors import Precision
    from kept.nn.state import DecodeState, KVCache


class Model(nn.Module):
    """A decoder for token ids (B, T) with logits (B, T, V).

    Construct under `torch.device("meta")` to get shapes without memory; `Model.load` does, and fills it.
    """

    def __init__(self, spec: ir.Spec) -> None:
        super().__init__()
        self.spec = spec
        self.embedding = _table(spec.vocabulary, spec.width)
        self.positions = None if spec.positions is None else _table(spec.positions, spec.width)
        self.layers = nn.ModuleList(Block(layer, spec.width) for layer in spec.layers)
        self.final_norm = NormModule(spec.final_norm, (spec.width,))
        self.head = HeadModule(spec)

    @classmethod
    def load(cls, program: Program, dtype: torch.dtype | None = None, precision: Precision = "float32") -> Model:
        """Build the model and read every weight.

        Weights are computed in `precision` and rounded to `dtype` (None: the dtype of most weights, which transformers
        uses too).
        """
        if dtype is None:
            dtype, precision = torch_dtype(program.dtype), working_precision(program.dtype)
        with torch.device("meta"):
            model = cls(program.spec)
        fill(model, program, "", dtype, precision)
        return model.eval()

    def forward(
        self,
        tokens_BT: Tensor,
        cache: DecodeState | None = None,
        pads_B: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Logits of every position.

        `pads_B` counts the padding tokens at the left of each row, `documents_BT` numbers the documents of packed ones.
        """
        return self.logits(self.hidden(tokens_BT, cache, pads_B, documents_BT))

    def hidden(
        self,
        tokens_BT: Tensor,
        cache: DecodeState | None = None,
        pads_B: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """The residual stream after the last layer, (B, T, D)."""
        for x_BTD in self.streams(tokens_BT, cache, pads_B, documents_BT):
            last = x_BTD
        return last

    def streams(
        self,
        tokens_BT: Tensor,
        cache: DecodeState | None = None,
        pads_B: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """The residual stream before the first layer and after each, depth + 1 values of (B, T, D)."""
        where = SequenceContext.of(tokens_BT, 0 if cache is None else cache.length, pads_B, documents_BT)
        x_BTD = self.embed(tokens_BT, where)
        yield x_BTD
        for i, layer in enumerate(self.layers):
            x_BTD = layer(x_BTD, where, None if cache is None else cache.layers[i])
            yield x_BTD

    def embed(self, tokens_BT: Tensor, where: SequenceContext) -> Tensor:
        """What enters the first layer."""
        x_BTD: Tensor = self.embedding(tokens_BT)
        if self.spec.embedding_multiplier != 1:
            x_BTD = x_BTD * self.spec.embedding_multiplier
        return x_BTD if self.positions is None else x_BTD + self.positions(where.ids_BT)

    def logits(self, x_BTD: Tensor) -> Tensor:
        """Final norm and head."""
        out: Tensor = self.head(self.final_norm(x_BTD), self.embedding.weight)
        return out


def _table(rows: int, width: int) -> nn.Embedding:
    # Given a weight, torch does not draw one, which on the meta device would import its compiler.
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


class Block(nn.Module):
    """One layer: `x + mixer(norm x)`, then `x + mlp(norm x)`, or both from the same x."""

    def __init__(self, spec: ir.Layer, width: int) -> None:
        super().__init__()
        self.spec = spec
        self.mixer_norm = _norm(spec.mixer_norm, width)
        self.mixer = None if spec.mixer is None else mixer_module(spec.mixer, width)
        self.mixer_post_norm = _norm(spec.mixer_post_norm, width)
        self.mlp_norm = _norm(spec.mlp_norm, width)
        self.mlp = None if spec.mlp is None else MlpModule(spec.mlp, width)
        self.mlp_post_norm = _norm(spec.mlp_post_norm, width)

    def forward(self, x_BTD: Tensor, where: SequenceContext, cache: KVCache | None = None) -> Tensor:
        """The residual stream after this layer."""
        normed_BTD, mixed_BTD = x_BTD, x_BTD
        if self.mixer is not None and self.mixer_norm is not None:
            normed_BTD = self.mixer_norm(x_BTD)
            mixed_BTD = x_BTD + self._scaled(self.mixer(normed_BTD, where, cache), self.mixer_post_norm)
        if self.mlp is None:
            return mixed_BTD
        if self.mlp_norm is not None:
            normed_BTD = self.mlp_norm(x_BTD if self.spec.parallel else mixed_BTD)
        return mixed_BTD + self._scaled(self.mlp(normed_BTD), self.mlp_post_norm)

    def _scaled(self, x_BTD: Tensor, norm: NormModule | None) -> Tensor:
        if norm is not None:
            x_BTD = norm(x_BTD)
        return x_BTD if self.spec.residual_multiplier == 1 else x_BTD * self.spec.residual_multiplier


def _norm(spec: ir.Norm | None, width: int) -> NormModule | None:
    return None if spec is None else NormModule(spec, (width,))


class HeadModule(nn.Module):
    """Projection to logits; a tied head borrows the embedding's matrix."""

    def __init__(self, spec: ir.Spec) -> None:
        super().__init__()
        self.spec = spec.head
        self.weight = None if spec.head.tied else nn.Parameter(torch.empty(spec.vocabulary, spec.width))
        self.bias = nn.Parameter(torch.zeros(spec.vocabulary)) if spec.head.bias else None

    def forward(self, x_BTD: Tensor, embedding_VD: Tensor) -> Tensor:
        """(B, T, D) to (B, T, V)."""
        weight_VD = embedding_VD if self.weight is None else self.weight
        return project(x_BTD, weight_VD, self.bias, self.spec)


def project(x_BTD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, spec: ir.Head) -> Tensor:
    """`softcap(multiplier * (W x + b))`, with any block of W's rows."""
    if spec.normalised:
        weight_VD = F.normalize(weight_VD, dim=-1)
    return finish(F.linear(x_BTD, weight_VD, bias_V), spec)


def finish(logits: Tensor, spec: ir.Head) -> Tensor:
    """`softcap(multiplier * x)` of the products x with a head's rows."""
    if spec.multiplier != 1:
        logits = logits * spec.multiplier
    return logits if spec.softcap is None else spec.softcap * torch.tanh(logits / spec.softcap)


def fill(module: nn.Module, program: Program, prefix: str, dtype: torch.dtype | None, precision: Precision) -> None:
    """Give a module built on the meta device the program's weights under `prefix`."""
    values = {}
    for name, _ in module.named_parameters():
        lazy = program.weights[prefix + name]
        values[name] = lazy.read() if dtype is None else lazy.value(precision).to(dtype)
    module.load_state_dict(values, assign=True, strict=True)
    module.requires_grad_(requires_grad=False)
