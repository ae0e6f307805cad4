"""A model up to its output head. Shapes: B rows, T tokens of a row, N = B T, D width, V vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint

from kept.distillation.loss.output_head import HeadInput

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kept.distillation.data.packing import Batch
    from kept.nn import Model
    from kept.nn.sequence import SequenceContext

    Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class BackboneOutput:
    """The input of the output head, and the hidden states (B, T, D) before the first layer and after each layer.

    Hidden states are empty unless they were asked for. `hidden_states[i]` is the input of layer i.
    """

    head: HeadInput
    hidden_states: Sequence[Tensor] = ()


class Backbone(nn.Module):
    """A model whose forward ends before the output head.

    `checkpointing` recomputes layers in the backward; `compiled` compiles each layer with torch.compile.
    """

    def __init__(self, model: Model, *, checkpointing: bool = False, compiled: bool = False) -> None:
        super().__init__()
        self.model, self.checkpointing, self.compiled = model, checkpointing, compiled
        for layer in model.layers if compiled else ():
            layer.forward = torch.compile(layer.forward)  # not the layer: FSDP2's hooks must stay outside

    def forward(self, batch: Batch, use: Callable[[BackboneOutput], Result], *, keep_hidden: bool = False) -> Result:
        """Run a batch and return `use(output)`.

        A loss belongs into `use`: FSDP2 sees the output of a forward, and hooks on a loss cost nothing while hooks on
        the head's weight would add up.
        """
        x_BTD, context = self.model.enter(batch.tokens_BT, documents_BT=batch.packed_BT)
        hidden_states = [x_BTD] if keep_hidden else []
        for layer in self.model.layers:
            x_BTD = self._run(layer, x_BTD, context)
            if keep_hidden:
                hidden_states.append(x_BTD)
        return use(BackboneOutput(head_input(self.model, x_BTD), hidden_states))

    def _run(self, layer: nn.Module, x_BTD: Tensor, context: SequenceContext) -> Tensor:
        if not self.checkpointing:
            out_BTD: Tensor = layer(x_BTD, context)
            return out_BTD
        recomputed_BTD: Tensor = checkpoint(layer, x_BTD, context, use_reentrant=False)
        return recomputed_BTD

    @torch.no_grad()
    def output(self, batch: Batch, *, keep_hidden: bool = False) -> BackboneOutput:
        """Run a batch without gradients. The head's weight of a sharded model stays gathered."""
        found: BackboneOutput = self(batch, lambda output: output, keep_hidden=keep_hidden)
        return found

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Return the trainable parameters by name; of a sharded model this rank's shards, in float32."""
        if isinstance(self, FSDPModule):
            self.reshard()  # a forward without a backward leaves the unsharded parameters in the compute dtype
        return {name: parameter for name, parameter in self.model.named_parameters() if parameter.requires_grad}


def head_input(model: Model, x_BTD: Tensor) -> HeadInput:
    """Return the input of a model's output head, given the output of its last layer."""
    head = model.head
    weight_VD = model.embedding.weight if head.weight is None else head.weight
    return HeadInput(model.final_norm(x_BTD).flatten(0, 1), weight_VD, head.bias, head.spec)
