"""The decoder of any spec: its modules, and a forward pass in steps. Parameters have the names of the spec's slots.

Shapes: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention

from kept.nn.mixers import mixer_module, tables_of
from kept.nn.mlp import mlp_module
from kept.nn.norm import NormModule
from kept.nn.resolve_kernels import resolve_kernels
from kept.nn.sequence import SequenceContext
from kept.nn.state import DecodeState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kept.ir import spec as ir
    from kept.nn.state import MixerState

resolve_kernels()


class Decoder(nn.Module):
    """Embedding, layers, final norm and head of a spec, and the steps of a forward pass.

    `kept.nn.Model` and the class that transformers loads differ in the arguments of `forward` only. `base` are the
    arguments of the next base class, if a subclass has another one.
    """

    def __init__(self, spec: ir.Spec, *base: object) -> None:
        super().__init__(*base)
        self.spec, self.tables = spec, tables_of(spec)
        self.embedding = _table(spec.vocabulary, spec.width)
        self.positions = None if spec.positions is None else _table(spec.positions, spec.width)
        self.layers = nn.ModuleList(Block(layer, spec.width) for layer in spec.layers)
        self.final_norm = NormModule(spec.final_norm, (spec.width,))
        self.head = HeadModule(spec)

    def empty_state(self) -> DecodeState:
        """Return the decoding state before the first token, for any batch size."""
        return DecodeState(tuple(cast("Block", block).empty_state() for block in self.layers))

    def hidden(
        self,
        tokens_BT: Tensor,
        state: DecodeState | None = None,
        pads_B: Tensor | None = None,
        documents_BT: Tensor | None = None,
        ends_BT: Tensor | None = None,
    ) -> Tensor:
        """Return the residual stream after the last layer, (B, T, D).

        `ends_BT` makes each row a tree, so that sequences with a common prefix share it (see `SequenceContext`).
        """
        for x_BTD in self.streams(tokens_BT, state, pads_B, documents_BT, ends_BT):
            last = x_BTD
        return last

    def streams(
        self,
        tokens_BT: Tensor,
        state: DecodeState | None = None,
        pads_B: Tensor | None = None,
        documents_BT: Tensor | None = None,
        ends_BT: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """Yield the residual stream before the first layer and after each, depth + 1 tensors of (B, T, D)."""
        past = 0 if state is None else state.advance(tokens_BT.shape[1])
        x_BTD, context = self.enter(tokens_BT, past, pads_B, documents_BT, ends_BT)
        yield x_BTD
        for i, block in enumerate(self.layers):
            x_BTD = block(x_BTD, context, None if state is None else state.layers[i])
            yield x_BTD

    def enter(
        self,
        tokens_BT: Tensor,
        past: int = 0,
        pads_B: Tensor | None = None,
        documents_BT: Tensor | None = None,
        ends_BT: Tensor | None = None,
    ) -> tuple[Tensor, SequenceContext]:
        """Return the input of the first layer, (B, T, D), and the context that every layer reads."""
        context = SequenceContext.of(tokens_BT, past, pads_B, documents_BT, ends_BT)
        return self.begin(self.embedding(tokens_BT), context)

    def begin(self, x_BTD: Tensor, context: SequenceContext) -> tuple[Tensor, SequenceContext]:
        """Return what `enter` does, from rows of the embedding, (B, T, D), and a context without tables."""
        if self.spec.embedding_multiplier != 1:
            x_BTD = x_BTD * self.spec.embedding_multiplier
        if self.positions is not None:
            x_BTD = x_BTD + self.positions(context.positions_BT)
        return x_BTD, context.with_tables(self.tables, x_BTD.dtype)

    def logits(self, x_BTD: Tensor) -> Tensor:
        """Apply the final norm and the head: (..., D) to (..., V)."""
        out: Tensor = self.head(self.final_norm(x_BTD), self.embedding.weight)
        return out


def _table(rows: int, width: int) -> nn.Embedding:
    # Without a given weight torch draws a random one, which on the meta device imports its compiler.
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width))


@dataclass(frozen=True, eq=False)
class BranchRun:
    """One branch while a layer runs, tensors (B, T, D).

    `stream_BTD` is read by the norm, `input_BTD` by the operation. `output_BTD` is the operation's output, `added_BTD`
    what the branch adds to the residual stream, `after_BTD` the stream with it.
    """

    branch: ir.Branch
    stream_BTD: Tensor
    input_BTD: Tensor
    output_BTD: Tensor
    added_BTD: Tensor
    after_BTD: Tensor


class Block(nn.Module):
    """One layer: `y = x + mixer(norm x)`, then `y + mlp(norm y)`; the MLP of a parallel layer reads x too.

    Norms and branches that the spec does not have are the identity and None.
    """

    def __init__(self, spec: ir.Layer, width: int) -> None:
        super().__init__()
        self.spec, self.branches = spec, spec.branches
        self.mixer_norm = _norm(spec.mixer_norm, width)
        self.mixer = None if spec.mixer is None else mixer_module(spec.mixer, width)
        self.mixer_post_norm = _norm(spec.mixer_post_norm, width)
        self.mlp_norm = _norm(spec.mlp_norm, width)
        self.mlp = None if spec.mlp is None else mlp_module(spec.mlp, width)
        self.mlp_post_norm = _norm(spec.mlp_post_norm, width)

    def empty_state(self) -> MixerState | None:
        """Return the mixer's state before the first token; None without a mixer."""
        return None if self.mixer is None else self.mixer.empty_state()

    def forward(self, x_BTD: Tensor, context: SequenceContext, state: MixerState | None = None) -> Tensor:
        """Return the residual stream after this layer, (B, T, D)."""
        for run in self.runs(x_BTD, context, state):
            x_BTD = run.after_BTD
        return x_BTD

    def runs(self, x_BTD: Tensor, context: SequenceContext, state: MixerState | None = None) -> Iterator[BranchRun]:
        """Run the branches in order, and yield each when it has run."""
        after_BTD, normed = x_BTD, {}  # type: Tensor, dict[str, Tensor]
        for branch in self.branches:
            stream_BTD = x_BTD if self.spec.parallel else after_BTD
            if branch.norm_name not in normed:
                normed[branch.norm_name] = getattr(self, branch.norm_name)(stream_BTD)
            input_BTD = normed[branch.norm_name]
            output_BTD, added_BTD = self._outputs(branch, input_BTD, context, state)
            after_BTD = after_BTD + added_BTD
            yield BranchRun(branch, stream_BTD, input_BTD, output_BTD, added_BTD, after_BTD)

    def run_alone(self, branch: ir.Branch, stream_BTD: Tensor, context: SequenceContext) -> Tensor:
        """Return what one branch adds to the residual stream, (B, T, D), given the stream that its norm reads."""
        return self._outputs(branch, getattr(self, branch.norm_name)(stream_BTD), context, None)[1]

    def _outputs(
        self, branch: ir.Branch, input_BTD: Tensor, context: SequenceContext, state: MixerState | None
    ) -> tuple[Tensor, Tensor]:
        """Return the output of a branch's operation, and what the branch adds to the residual stream."""
        run = getattr(self, branch.name)
        output_BTD = run(input_BTD, context, state) if branch.name == "mixer" else run(input_BTD)
        return output_BTD, self._scaled(getattr(self, branch.post_norm_name)(output_BTD))

    def _scaled(self, x_BTD: Tensor) -> Tensor:
        return x_BTD if self.spec.residual_multiplier == 1 else x_BTD * self.spec.residual_multiplier


def _norm(spec: ir.Norm | None, width: int) -> nn.Module:
    return nn.Identity() if spec is None else NormModule(spec, (width,))


class HeadModule(nn.Module):
    """The projection to logits. A tied head has no matrix of its own and multiplies by the embedding's."""

    def __init__(self, spec: ir.Spec) -> None:
        super().__init__()
        self.spec = spec.head
        self.weight = None if spec.head.tied else nn.Parameter(torch.empty(spec.vocabulary, spec.width))
        self.bias = nn.Parameter(torch.zeros(spec.vocabulary)) if spec.head.bias else None

    def forward(self, x_BTD: Tensor, embedding_VD: Tensor) -> Tensor:
        """Project (..., D) to (..., V)."""
        weight_VD = embedding_VD if self.weight is None else self.weight
        return project(x_BTD, weight_VD, self.bias, self.spec)


def project(x_BTD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, spec: ir.Head) -> Tensor:
    """Return `softcap(multiplier * (W x + b))` for some or all rows of W: (..., D) to (..., V)."""
    if spec.normalised:
        weight_VD = F.normalize(weight_VD, dim=-1)
    return finish(F.linear(x_BTD, weight_VD, bias_V), spec)


def finish(logits: Tensor, spec: ir.Head) -> Tensor:
    """Return `softcap(multiplier * logits)`, elementwise, for the products with some or all rows of a head."""
    if spec.multiplier != 1:
        logits = logits * spec.multiplier
    return logits if spec.softcap is None else spec.softcap * torch.tanh(logits / spec.softcap)
